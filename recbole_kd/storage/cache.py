"""The cache of trained models: one folder per entry, locked while it is written."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_kd.storage.places import user_path
from recbole_kd.storage.screen_log import show

WORK = ".work"
"""Suffix of the folder in which an entry is built."""
CACHE_FORMAT = 1
"""Part of every digest: raise it when a stage computes other results from the same settings."""


def cache_folder(cache_dir: str | None) -> Path:
    """Return the cache folder.

    It is ``cache_dir``, else the environment variable RECBOLE_KD_CACHE, else saved/cache in the current folder.
    """
    return user_path(
        cache_dir or os.environ.get("RECBOLE_KD_CACHE") or "saved/cache",
        "cache_dir" if cache_dir else "RECBOLE_KD_CACHE",
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache entry.

    If two runs need the same model, one trains it and the other waits. Half-written files of a killed run are removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(folder) + ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        show(f"      waiting for another run that is making {folder}")
        lock.acquire()
    try:
        _forget_half_written(folder)
        yield
    finally:
        lock.release()


def remove_folder(folder: Path) -> None:
    """Remove a folder as far as that is possible; anything else at its path stays.

    ``shutil.rmtree`` opens the path, which waits for ever if it is a pipe.
    """
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


def _forget_half_written(folder: Path) -> None:
    """Remove the temporary folders of an entry, and its work folder if the entry is finished.

    :func:`recbole_kd.storage.files.written_whole` makes these folders. The caller holds the lock of the entry, so
    nobody else is writing them.
    """
    if folder.is_dir():
        remove_folder(folder.with_name(folder.name + WORK))
    for path in folder.parent.glob(f".{glob.escape(folder.name)}-*"):
        if path.name.rpartition("-")[2].isdigit():
            remove_folder(path)
