"""Teacher folders on their way to nodes that do not share a disk: as arrays in Ray's object store, written once a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_kd.storage.cache import locked
from recbole_kd.storage.files import written_whole


def pack(folders: Iterable[Path], cache: Path) -> dict[str, dict[str, Any]]:
    """The files of folders of the cache: folder relative to it -> file name -> bytes (uint8 arrays, which Ray shares without a copy)."""
    return {
        str(folder.resolve().relative_to(cache.resolve())): {
            path.name: np.fromfile(path, dtype=np.uint8) for path in sorted(folder.iterdir()) if path.is_file()
        }
        for folder in folders
    }


def unpack(names: Iterable[str], files: Callable[[], Mapping[str, Mapping[str, Any]]], cache: Path) -> None:
    """Write the folders that this node's cache lacks; all trials of a node then map the same files.

    Args:
        names: of the folders, below the cache. files: gets what :func:`pack` made; called only where a folder is
            missing.
    """
    for name in names:
        entry = cache / name
        if entry.is_dir():
            continue
        with locked(entry):
            if not entry.is_dir():
                with written_whole(entry) as temporary:
                    for file, numbers in files()[name].items():
                        numbers.tofile(temporary / file)
