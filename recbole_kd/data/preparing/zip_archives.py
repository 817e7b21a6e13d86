"""Chosen members of zip archives, written under names of our own."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from recbole_kd.errors import DownloadError
from recbole_kd.storage.files import write_whole


def members_of(archive: Path) -> list[str]:
    """Return the names of the files in an archive.

    Raises:
        DownloadError: it is not a zip archive; it is removed.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            return [entry.filename for entry in opened.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(archive, error) from None


def extract(archive: Path, members: Mapping[str, str], folder: Path) -> None:
    """Write members of an archive into a folder, each completely or not at all.

    A member's path is never used as a path on this machine, so no archive can write elsewhere.

    Args:
        archive: zip file.
        members: name of a member, with or without the folders above it -> name of the file in ``folder``.
        folder: gets the files; those that exist are kept.

    Raises:
        DownloadError: a member is missing or larger than the free disk space, or the archive is damaged, which its
            checksums show; it is removed.
    """
    there = members_of(archive)
    for member, name in members.items():
        target = folder / name
        if target.exists():
            continue
        found = [path for path in there if path == member or PurePosixPath(path).name == member]
        if len(found) != 1:
            raise DownloadError(f"{archive} has {len(found)} files {member}: it has {', '.join(there[:5])}.")
        try:
            with zipfile.ZipFile(archive) as opened, opened.open(found[0]) as source:
                size, free = opened.getinfo(found[0]).file_size, shutil.disk_usage(folder).free
                if size > free:
                    raise DownloadError(f"{member} of {archive} needs {size:,} bytes, and {folder} has {free:,} left.")
                write_whole(target, partial(_copy, source))
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise _damaged(archive, error) from None


def _copy(source: IO[bytes], path: Path) -> None:
    with open(path, "wb") as stream:
        shutil.copyfileobj(source, stream)


def _damaged(archive: Path, error: Exception) -> DownloadError:
    archive.unlink(missing_ok=True)
    return DownloadError(f"{archive} was not a complete zip archive ({error}) and is removed: run again.")
