"""Transfer of teacher folders to nodes that do not share a disk.

The files are arrays in Ray's object store, written once per node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_kd.storage.cache import locked
from recbole_kd.storage.files import written_whole


def pack(folders: Iterable[Path], cache: Path) -> dict[str, dict[str, Any]]:
    """Return the files of some cache folders.

    Returns:
        folder relative to the cache -> file name -> bytes (uint8 arrays, which Ray shares without a copy).
    """
    return {
        str(folder.resolve().relative_to(cache.resolve())): {
            path.name: np.fromfile(path, dtype=np.uint8) for path in sorted(folder.iterdir()) if path.is_file()
        }
        for folder in folders
    }


def unpack(names: Iterable[str], files: Callable[[], Mapping[str, Mapping[str, Any]]], cache: Path) -> None:
    """Write the folders that are missing in this node's cache.

    All trials of the node then map the same files.

    Args:
        names: folders relative to the cache.
        files: returns the result of :func:`pack`. It is called only if a folder is missing.
        cache: the cache folder.
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
