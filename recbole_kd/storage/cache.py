"""The cache of trained models: one folder per entry, locked while it is made."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_kd.storage.places import user_path

WORK = ".work"
"""Suffix of the folder in which an entry is made."""
CACHE_FORMAT = 1
"""Part of every digest: raise it when what a stage computes changes."""


def cache_folder(cache_dir: str | None) -> Path:
    """``cache_dir``, else the environment variable RECBOLE_KD_CACHE, else saved/cache of the current folder."""
    return user_path(
        cache_dir or os.environ.get("RECBOLE_KD_CACHE") or "saved/cache",
        "cache_dir" if cache_dir else "RECBOLE_KD_CACHE",
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the entry's lock: of two runs that need the same model one trains it and the other waits. What a killed one left of writing the
    entry is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(folder) + ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        getLogger().info(f"Waiting for another run that is making {folder}")
        lock.acquire()
    try:
        _forget_half_written(folder)
        yield
    finally:
        lock.release()


def _forget_half_written(folder: Path) -> None:
    """Remove the temporary folders of an entry (:func:`recbole_kd.storage.files.written_whole`), and its workshop once the entry is there.

    The caller holds the entry's lock, and nobody else writes them.
    """
    if folder.is_dir():
        shutil.rmtree(folder.with_name(folder.name + WORK), ignore_errors=True)
    for path in folder.parent.glob(f".{glob.escape(folder.name)}-*"):
        if path.name.rpartition("-")[2].isdigit():
            shutil.rmtree(path, ignore_errors=True)
