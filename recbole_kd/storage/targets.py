"""Checks before writing: only files of this project are replaced or removed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from recbole_kd.errors import TargetError

Own = Callable[[Path], bool]
"""Test of whether the writer made a path."""


_HALF_WRITTEN = re.compile(r"\.(?P<name>.+)-\d+")
"""Name of a file while it is written, see :func:`recbole_kd.storage.files.write_whole`."""


def nothing_is_own(path: Path) -> bool:
    """Return False: this writer replaces no file."""
    return False


def check_folder(folder: Path, *, own: Own = nothing_is_own, option: str = "", sources: Iterable[Path] = ()) -> None:
    """Refuse to write a folder that holds anything the writer did not make.

    A missing or empty folder may be written; so may one whose files are all the writer's own. A half-written file that
    a killed process left is its writer's too.

    Args:
        folder: the target.
        own: tests whether the writer made a path directly inside; such a path may be replaced.
        option: the option that names the target, such as ``--out``, for the message.
        sources: paths that are read to make the target. They may not be the target, lie in it, or contain it.

    Raises:
        TargetError: the target is a link, a file, a mount point or the current folder, or holds something else. Nothing
            was changed.
    """
    place = Path(os.path.abspath(folder))
    for source in sources:
        here, there = place.resolve(), source.resolve()
        if here == there or here in there.parents:
            raise _refusal(folder, f"it holds {source}, which is read to make it", option, "a missing or empty folder")
        if there.is_dir() and there in here.parents:
            raise _refusal(folder, f"it lies inside {source}, which is read to make it", option, "a folder elsewhere")
    if place.is_symlink():
        raise _refusal(folder, "it is a link", option, "a folder")
    _refuse_file_above(folder, option)
    if not place.exists():
        return
    if not place.is_dir():
        raise _refusal(folder, "it is a file", option, "a missing or empty folder")
    if os.path.ismount(place) or place == Path.cwd():
        what = "a mount point" if os.path.ismount(place) else "the current folder"
        raise _refusal(folder, f"it is {what}, which cannot be replaced", option, "a folder inside it", place / "made")
    held = sorted(place.iterdir())
    foreign = next((path for path in held if not own(path) and not is_half_written(path, own)), None)
    if foreign is not None:
        raise _refusal(
            folder, f"it holds {foreign.name}, which this command did not make", option, "a missing or empty folder"
        )


def is_half_written(path: Path, own: Own) -> bool:
    """Test whether a killed process left a file that would have become one of the writer's own."""
    found = _HALF_WRITTEN.fullmatch(path.name)
    if found is None or path.is_symlink() or not path.is_file():
        return False
    return own(path) or own(path.with_name(found["name"]))


def check_file(path: Path, *, own: Own = nothing_is_own, option: str = "") -> None:
    """Refuse to overwrite a file that the writer did not make.

    A missing or empty file may be written.

    Args:
        path: the target. own: tests whether the writer made the existing file; it may then be replaced.
        option: the option that names the target, such as ``--output``, for the message.

    Raises:
        TargetError: the target is a link, a folder or a device, or a file of somebody else. Nothing was changed.
    """
    if path.is_symlink():
        raise _refusal(path, "it is a link", option, "a file")
    _refuse_file_above(path, option)
    if not path.exists():
        return
    if not path.is_file():
        raise _refusal(path, "it is a folder" if path.is_dir() else "it is a device", option, "a missing file")
    if path.stat().st_size and not own(path):
        raise _refusal(path, "there is a file that this command did not make", option, "a missing file")


def holds_text(path: Path, mark: str) -> bool:
    """Test whether a file holds a text that this project's writer puts into its files."""
    try:
        return mark.encode() in path.read_bytes()
    except OSError:
        return False


def _refuse_file_above(path: Path, option: str) -> None:
    """Refuse a target that lies below a file."""
    place = Path(os.path.abspath(path))
    above = next((one for one in place.parents if os.path.lexists(one)), place)
    if above != place and not above.is_dir():
        wanted = "a path below a folder"
        raise _refusal(path, f"{above} is not a folder", option, wanted, _free_name(above) / place.relative_to(above))


def _refusal(path: Path, why: str, option: str, wanted: str, instead: Path | None = None) -> TargetError:
    """Return the error for a target that may not be written; it suggests a free name."""
    free = instead or _free_name(path)
    if option:
        return TargetError(f"Invalid {option}={path}: {why}. Name {wanted}, such as {option}={free}.")
    return TargetError(f"{path} cannot be written: {why}. Move it away and run again.")


def _free_name(path: Path) -> Path:
    """Return the first free path of NAME-2, NAME-3, ..."""
    place = Path(os.path.abspath(path))
    number = 2
    while os.path.lexists(free := place.with_name(f"{place.stem}-{number}{place.suffix}")):
        number += 1
    return free if path.is_absolute() or path.name in ("", "..") else path.with_name(free.name)
