"""Pickled sparse matrices of users and items, rewritten as JSON lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import scipy.sparse

from recbole_kd.errors import DownloadError, KDError
from recbole_kd.storage.files import write_text_whole

ReadPickle = Callable[[BinaryIO], Any]
"""Reads a pickle of arrays and executes none of its code: :func:`recbole_kd.integration.safe_load.load_pickle`."""


def write_lists(pickled: Path, target: Path, read_pickle: ReadPickle) -> None:
    """Write a pickled sparse matrix of users and items as JSON, ``{user: [items]}``.

    Raises:
        DownloadError: it is not a pickled sparse matrix, or the target has other content.
    """
    lists: dict[str, list[int]] = {}
    matrix = _matrix(pickled, read_pickle)
    for user, item in zip(matrix.row.tolist(), matrix.col.tolist(), strict=True):
        lists.setdefault(str(user), []).append(item)
    text = json.dumps(lists)
    if target.exists() and target.read_bytes() != text.encode():
        raise DownloadError(f"{target} is there, and it is not made of {pickled.name}: move it away and run again.")
    write_text_whole(target, text)


def _matrix(pickled: Path, read_pickle: ReadPickle) -> Any:
    """Return the matrix with its row and column numbers, ``scipy.sparse.coo_matrix``."""
    what = f"{pickled} is not a pickled sparse matrix of users and items"
    try:
        with open(pickled, "rb") as file:
            found = read_pickle(file)
    except KDError as error:
        raise DownloadError(f"{what} ({str(error).partition(', which')[0]}).") from None
    if not scipy.sparse.issparse(found):
        raise DownloadError(f"{what}: it holds a {type(found).__name__}.")
    return found.tocoo()
