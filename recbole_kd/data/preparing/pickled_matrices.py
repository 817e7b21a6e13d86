"""Pickled sparse matrices of users and items, rewritten as JSON lists."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from recbole_kd.errors import DownloadError
from recbole_kd.storage.files import write_text_whole

_ALLOWED: dict[tuple[str, str], Any] = {
    **{(f"scipy.sparse.{module}", "coo_matrix"): scipy.sparse.coo_matrix for module in ("coo", "_coo")},
    **{(f"scipy.sparse.{module}", "csr_matrix"): scipy.sparse.csr_matrix for module in ("csr", "_csr")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""What such a file may name; NumPy's function for arrays is added below under both of its addresses."""


class _Matrices(pickle.Unpickler):
    """An unpickler of sparse matrices and arrays, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return super().find_class("numpy._core.multiarray", name)
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _ALLOWED[module, name]


def write_lists(pickled: Path, target: Path) -> None:
    """Write a pickled sparse matrix of users and items as JSON, ``{user: [items]}``.

    The caller has checked the file's digest: a pickle that only names arrays can still be malformed.

    Raises:
        DownloadError: it is not a pickled sparse matrix, or the target has other content.
    """
    try:
        matrix = _Matrices(io.BytesIO(pickled.read_bytes())).load().tocoo()
        rows, columns = matrix.row.tolist(), matrix.col.tolist()
    except (pickle.UnpicklingError, AttributeError, ValueError, TypeError, EOFError, IndexError) as error:
        raise DownloadError(f"{pickled} is not a pickled sparse matrix of users and items: {error}.") from None
    lists: dict[str, list[int]] = {}
    for user, item in zip(rows, columns, strict=True):
        lists.setdefault(str(user), []).append(item)
    text = json.dumps(lists)
    if target.exists() and target.read_bytes() != text.encode():
        raise DownloadError(f"{target} is there, and it is not made of {pickled.name}: move it away and run again.")
    write_text_whole(target, text)
