"""The files of a teacher: a folder with manifest.json and scores.safetensors.

They are written completely or not at all. Safetensors and JSON hold numbers and text only: reading them executes no
code.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from recbole_kd.errors import TeacherError
from recbole_kd.storage.disk_full import full_disk_is_said
from recbole_kd.storage.integrity import damage, is_changed, records_of, say_unchecked, sealed
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.targets import check_file, check_folder, is_half_written

MANIFEST = "manifest.json"
SCORES = "scores.safetensors"
WEIGHTS = "model.safetensors"
MODALITIES = "modalities.safetensors"
FORMAT = 1
FILES = "files"
"""Key of a manifest: name -> size and SHA-256 of each file beside it."""
TRAIN_AGAIN = " and train the teacher again"

_KEYS: dict[str, type] = {"store": str, "n_queries": int, "n_items": int}
_ONLINE_KEYS: dict[str, type] = {"model": str, "dataset": str, "settings": dict}


def of_epoch(name: str, epoch: int) -> str:
    """Return a checkpoint's file name: ``scores.safetensors`` -> ``scores-12.safetensors``."""
    stem, _, suffix = name.partition(".")
    return f"{stem}-{epoch}.{suffix}"


@contextmanager
def written_whole(folder: Path, replaces: Collection[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` if the block ends without an error.

    After an error it is removed.

    Args:
        folder: is missing, is empty, or has only plain files with names in ``replaces``, which are removed.
        replaces: names of files that an earlier, incomplete write may have left.

    Raises:
        TargetError: the folder has anything else, see :func:`recbole_kd.storage.targets.check_folder`; it stays
            unchanged.
        StorageError: the disk is full.
    """
    folder = Path(os.path.abspath(folder))

    def own(path: Path) -> bool:
        return path.name in replaces and not path.is_symlink() and (path.is_file() or not path.exists())

    check_folder(folder, own=own)
    with full_disk_is_said(folder, "free some, or name another place, and run again with --resume=True"):
        temporary = _new_beside(folder, Path.mkdir)
    try:
        with full_disk_is_said(folder, "free some, or name another place, and run again with --resume=True"):
            yield temporary
        check_folder(folder, own=own)  # again: the block may have taken hours
        for path in [*folder.iterdir()] if folder.is_dir() else []:
            if own(path) or is_half_written(path, own):  # asked again: a file may have come since the check
                path.unlink()
        os.replace(temporary, folder)  # replaces only a missing or an empty folder
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _new_beside(path: Path, make: Callable[[Path], object]) -> Path:
    """Make and return ``.NAME-NUMBER`` beside a path, under a name that is free.

    Args:
        make: makes it, and raises FileExistsError if the name is taken.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = 0
    while True:
        temporary = path.with_name(f".{path.name}-{os.getpid()}{end or ''}")
        try:
            make(temporary)
        except FileExistsError:
            end += 1
        else:
            return temporary


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file completely or not at all.

    The caller has checked that an existing file may be replaced.

    Args:
        write: writes the content to the path that it gets, an empty file beside ``path``.

    Raises:
        TargetError: the path is a link, a folder or a device.
    """
    check_file(path, own=lambda _: True)
    temporary = _new_beside(path, partial(Path.touch, exist_ok=False))
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file completely or not at all; see :func:`write_whole`."""
    write_whole(path, lambda new: new.write_text(text, encoding="utf-8", newline="\n"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file completely or not at all; see :func:`write_text_whole`."""
    write_text_whole(path, json.dumps(content, indent=2, default=str))


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's state as safetensors.

    The format cannot share tensors: a tensor with two names (GCMC, FEARec) is written twice.
    """
    tensors: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in model.state_dict().items():
        whole = tensor.detach().cpu().contiguous()
        place = whole.untyped_storage().data_ptr()
        tensors[name] = whole.clone() if place in places else whole
        places.add(place)
    save_file(tensors, path)


def write_manifest(folder: Path, content: Mapping[str, Any], name: str = MANIFEST) -> None:
    """Write a folder's manifest (or report), after all its other files.

    It gets their sizes and SHA-256 under ``files``, and its own SHA-256.
    """
    files = records_of(path for path in folder.iterdir() if path.is_file() and path.name != name)
    write_json(folder / name, sealed({**content, FILES: files}))


def check_written(folder: Path, content: Mapping[str, Any], name: str = MANIFEST, fix: str = TRAIN_AGAIN) -> None:
    """Refuse a folder whose manifest or files have changed since they were written.

    It reads files up to 64 MiB completely and 64 MiB of larger ones. Folders of earlier versions have no digests: they
    pass, and a line of the log says so.

    Raises:
        TeacherError: names the file and what to do.
    """
    if is_changed(content):
        raise TeacherError(
            f"{folder / name} is not what was written (its SHA-256 differs); delete the folder {folder}{fix}"
        )
    if FILES not in content:
        say_unchecked(folder, f"`recbole-kd cache verify` lists such folders; to have digests, delete the folder{fix}.")
        return
    files = content[FILES]
    wrong = damage(folder, files) if isinstance(files, dict) else f"{name} is malformed"
    if wrong is not None:
        raise TeacherError(f"{folder} is damaged: {wrong}; delete the folder{fix}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a teacher folder, after :func:`check_written`.

    Raises:
        TeacherError: the folder or its manifest is missing, the manifest is not ours, or the files have changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise TeacherError(
            f"No teacher at {folder}: a teacher is a folder with {MANIFEST}, as a run leaves it in its cache "
            "(or a RecBole checkpoint, *.pth); check --teacher_path or train one with --teacher=<model>"
        )
    try:
        manifest = read_json(path)
    except ValueError as error:
        raise TeacherError(f"{path} is damaged ({error}); delete the folder and train the teacher again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise TeacherError(f"{path} is not a teacher manifest of format {FORMAT}; export the teacher again")
    needed = {**_KEYS, **(_ONLINE_KEYS if manifest.get("store") == "online" else {})}
    wrong = [name for name, kind in needed.items() if not isinstance(manifest.get(name), kind)]
    wrong += [name for name in ("data", "report") if not isinstance(manifest.get(name, {}), dict)]
    epochs = manifest.get("trajectory", [])
    wrong += [] if isinstance(epochs, list) and all(type(epoch) is int for epoch in epochs) else ["trajectory"]
    if wrong:
        raise TeacherError(
            f"{path} lacks {', '.join(wrong)} or has a wrong value there; delete the folder and train the teacher again"
        )
    check_written(folder, manifest)
    return manifest


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a safetensors file, memory-mapped: pages are loaded on access.

    Raises:
        TeacherError: the file is missing, truncated or not a safetensors file.
    """
    if not path.is_file():
        raise TeacherError(f"{path} is missing; delete the folder {path.parent} and train the teacher again")
    try:
        with safe_open(path, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise TeacherError(
            f"{path} is truncated or damaged ({error}); delete the folder {path.parent} and train the teacher again"
        ) from None


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the size of tensors as safetensors on disk, in bytes, without the header."""
    return sum(t.numel() * t.element_size() for t in tensors.values())
