"""Writer of RecBole's atomic files; a folder of them appears complete or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from tqdm import tqdm

from recbole_kd.data.preparing.interactions import Interactions
from recbole_kd.errors import DataError, TargetError
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.targets import check_folder

MANIFEST = "prepared.json"
_CHUNK = 200_000
_BAR_DELAY = 2.0  # seconds: shorter work shows no progress bar


def write_inter(path: Path, inter: Interactions) -> None:
    """Write user_id, item_id and, if present, timestamp and rating, in chunks."""
    fields = ["user_id:token", "item_id:token"]
    if inter.has_time:
        fields.append("timestamp:float")
    if inter.rating is not None:
        fields.append("rating:float")
    with (
        open(path, "w", encoding="utf-8", newline="\n") as stream,
        tqdm(total=len(inter), desc=path.name, unit="row", delay=_BAR_DELAY, disable=None) as bar,
    ):
        stream.write("\t".join(fields) + "\n")
        for start in range(0, len(inter), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            columns = [
                _tokens(inter.user[chunk], inter.user_tokens),
                _tokens(inter.item[chunk], inter.item_tokens),
            ]
            if inter.has_time:
                columns.append(_numbers(inter.time[chunk]))
            if inter.rating is not None:
                columns.append(_numbers(inter.rating[chunk]))
            stream.writelines("\t".join(row) + "\n" for row in zip(*columns, strict=True))
            bar.update(len(columns[0]))


def write_item(path: Path, attributes: Mapping[str, list[str]], name: str = "attributes") -> None:
    """Write item_id and the attributes in the column ``name``, separated by blanks."""
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(f"item_id:token\t{name}:token_seq\n")
        stream.writelines(f"{item}\t{' '.join(values)}\n" for item, values in attributes.items())


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest; it has no date and no path, so equal inputs give equal bytes."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


def _tokens(codes: npt.NDArray[np.int32], tokens: list[str]) -> list[str]:
    return [tokens[code] for code in codes.tolist()]


def _numbers(values: npt.NDArray[Any]) -> list[str]:
    """Return the shortest text of each number that reads back as the same number.

    Integers have no decimal point.
    """
    if values.dtype == np.int64:
        return [str(value) for value in values.tolist()]
    return [str(int(value)) if value.is_integer() else repr(value) for value in values.tolist()]


@contextmanager
def new_folder(target: Path, sources: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield a folder to fill; it replaces `target` if the block ends without an error.

    Until then `target` stays unchanged. Only a folder made here is ever replaced; files that a user added
    are kept. A killed run leaves at most hidden folders beside it; the next run deletes or restores them.

    Args:
        target: missing, empty, or made here. sources: files that are read to fill it; none may be in it.

    Raises:
        DataError: another run is preparing it.
        TargetError: it was not made here, or a new file would replace a user's.
    """
    check_prepared(target, sources)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    previous = target.with_name(f".{target.name}.previous")
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"Another run is preparing {target} right now: wait until it is done.") from None
    with ExitStack() as stack:
        stack.callback(lock.release)
        _settle(target, partial, previous)
        check_prepared(target, sources)
        partial.mkdir()
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        (partial / MANIFEST).touch()  # marks the folder as made here, in case the run is killed
        yield partial
        _exchange(target, partial, previous)


def check_prepared(target: Path, sources: Iterable[Path] = ()) -> None:
    """Refuse a target that was not made here.

    Raises:
        TargetError: it is a link or a file, holds a source, or holds files but no manifest of ours.
    """
    made = (target / MANIFEST).is_file()
    check_folder(target, own=lambda _: made, sources=sources)


def _settle(target: Path, partial: Path, previous: Path) -> None:
    """Clean up after a killed run; refuse hidden folders that were not made here."""
    for leftover in (partial, previous):
        check_prepared(leftover)
    if previous.exists() and not target.exists():
        previous.rename(target)
    for leftover in (partial, previous):
        if leftover.exists():
            shutil.rmtree(leftover)


def _exchange(target: Path, partial: Path, previous: Path) -> None:
    if not (target / MANIFEST).is_file():  # missing, or empty
        partial.rename(target)
        return
    _carry_over(target, partial)
    target.rename(previous)
    try:
        partial.rename(target)
    except BaseException:
        previous.rename(target)
        raise
    shutil.rmtree(previous)


def _carry_over(old: Path, new: Path) -> None:
    """Copy a user's own files from the old folder; files of the old manifest are not copied.

    Raises:
        TargetError: a new file would replace a user's.
        DataError: the old manifest is damaged.
    """
    try:
        made = {MANIFEST, *read_json(old / MANIFEST)["files"]}
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{old / MANIFEST} is damaged: move {old} away first.") from None
    for entry in sorted(old.iterdir()):
        if entry.name in made:
            continue
        if (new / entry.name).exists():
            raise TargetError(
                f"{entry} would be replaced but was not made here: move it away, then prepare {old.name} again."
            )
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, new / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, new / entry.name, follow_symlinks=False)
