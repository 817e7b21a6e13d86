"""RecBole's atomic files: how they are written, and how a folder of them appears whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from tqdm import tqdm

from recbole_kd.data.preparing.interactions import Interactions
from recbole_kd.errors import DataError

MANIFEST = "prepared.json"
_CHUNK = 200_000
_BAR_DELAY = 2.0  # seconds: short work shows no bar


def write_inter(path: Path, inter: Interactions) -> None:
    """Write user_id, item_id and what else the interactions have (timestamp, rating), a chunk at a time."""
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
    """Write item_id and its attributes, a sequence parted by blanks in the column ``name``."""
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(f"item_id:token\t{name}:token_seq\n")
        stream.writelines(f"{item}\t{' '.join(values)}\n" for item, values in attributes.items())


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest; it holds no date and no path, so equal inputs give equal bytes."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


def _tokens(codes: npt.NDArray[np.int32], tokens: list[str]) -> list[str]:
    return [tokens[code] for code in codes.tolist()]


def _numbers(values: npt.NDArray[np.float64]) -> list[str]:
    """Shortest text that reads back as the same number; whole numbers without a point."""
    return [str(int(value)) if value.is_integer() else repr(value) for value in values.tolist()]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target` when the block ends without an error.

    Until then `target` stays as it was. Only a folder made here is ever replaced; files that a user added
    go along. A killed run leaves at most hidden folders beside it; the next run clears or restores them.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    previous = target.with_name(f".{target.name}.previous")
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"Another run is preparing {target} right now: wait until it is done.") from None
    try:
        _settle(target, partial, previous)
        partial.mkdir()
        yield partial
        _exchange(target, partial, previous)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        lock.release()


def _settle(target: Path, partial: Path, previous: Path) -> None:
    """Undo what a killed run left, and refuse to replace a folder that was not made here."""
    if target.is_symlink():
        raise DataError(f"{target} is a link: give the folder that it points into as --out=DIR.")
    if previous.exists() and not target.exists():
        previous.rename(target)
    for leftover in (partial, previous):
        if leftover.exists():
            shutil.rmtree(leftover)
    if target.exists() and not (target / MANIFEST).is_file():
        raise DataError(f"{target} exists without a {MANIFEST}, so it was not made here: move it away first.")


def _exchange(target: Path, partial: Path, previous: Path) -> None:
    if not target.exists():
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
    """Copy what a user has put into the old folder; files of the old manifest are left behind."""
    try:
        made = {MANIFEST, *json.loads((old / MANIFEST).read_text(encoding="utf-8"))["files"]}
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{old / MANIFEST} is damaged: move {old} away first.") from None
    for entry in sorted(old.iterdir()):
        if entry.name in made or (new / entry.name).exists():
            continue
        if entry.is_dir():
            shutil.copytree(entry, new / entry.name)
        else:
            shutil.copy2(entry, new / entry.name)
