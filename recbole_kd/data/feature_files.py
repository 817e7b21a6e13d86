"""Matrices of item features on disk, and the ids of their rows. No RecBole import.

A matrix stays on disk where its format allows (``.npy``, ``.safetensors``), memory-mapped: only the rows that are asked for are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recbole_kd.errors import DataError

IDS_SUFFIX = ".ids"
"""``image.npy`` is aligned by ``image.ids`` beside it: an item token a line, in the order of the rows."""

_ROWS = 4096  # written at a time

PARQUET_IDS = "item_id"
"""Column of a Parquet file with the item tokens."""


@dataclass(frozen=True)
class FeatureMatrix:
    """Rows of numbers and whose they are.

    Attributes:
        values: ``[rows, width]`` of any float type. ids: the item token of each row, or None: row r belongs to the item with the token r.
    """

    values: Tensor
    ids: list[str] | None


def read_matrix(modality: str, path: Path, ids: Path | None = None) -> FeatureMatrix:
    """Read the features of one modality.

    Args:
        path: ``.npy``, ``.safetensors`` or ``.parquet``. ids: text file of the item tokens; by default the file with the suffix ``.ids``
            beside the matrix, where there is one.

    Raises:
        DataError: names the modality, what is wrong and, where one item is to blame, the first such item.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"The {modality} features {path} are of no known format: it must be one of {', '.join(_READERS)}")
    if not path.is_file():
        raise DataError(f"The {modality} features {path} are not there: give the file's path, or its name inside the data set's folder")
    values, own_ids = reader(modality, path)
    if values.ndim != 2 or not values.is_floating_point() or 0 in values.shape:
        raise DataError(
            f"The {modality} features {path} have the shape {tuple(values.shape)} and type {str(values.dtype)[6:]}: they must be a matrix "
            "of real numbers, a row per item"
        )
    beside = path.with_suffix(IDS_SUFFIX)
    id_file = ids if ids is not None else (beside if own_ids is None and beside.is_file() else None)
    tokens = own_ids if id_file is None else _read_ids(modality, id_file)
    if tokens is not None:
        _check_ids(modality, path, tokens, len(values))
    return FeatureMatrix(values, tokens)


def write_matrix(path: Path, matrix: FeatureMatrix) -> None:
    """Write a matrix as float32 ``.npy``, block by block, and its ids, if any, beside it."""
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=tuple(matrix.values.shape))
    for start in range(0, len(written), _ROWS):
        written[start : start + _ROWS] = matrix.values[start : start + _ROWS].float().numpy()
    written.flush()
    if matrix.ids is not None:
        path.with_suffix(IDS_SUFFIX).write_text("".join(f"{token}\n" for token in matrix.ids), encoding="utf-8")


def file_digest(*paths: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the files' contents, one after the other."""
    sha = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()[:16]


def _read_npy(modality: str, path: Path) -> tuple[Tensor, list[str] | None]:
    try:
        # c: writable pages of its own, as torch wants them; nothing is ever written
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False)), None
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise DataError(f"The {modality} features {path} are no readable .npy matrix ({_one_line(error)}): write the file again") from None


def _read_safetensors(modality: str, path: Path) -> tuple[Tensor, list[str] | None]:
    try:
        with safe_open(path, framework="pt") as handle:
            names = list(handle.keys())
            chosen = modality if modality in names else names[0] if len(names) == 1 else None
            if chosen is not None:
                return handle.get_tensor(chosen), None
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise DataError(f"The {modality} features {path} are damaged ({_one_line(error)}): write the file again") from None
    raise DataError(f"The {modality} features {path} hold the tensors {', '.join(sorted(names))}: name one of them {modality}")


def _read_parquet(modality: str, path: Path) -> tuple[Tensor, list[str] | None]:
    """Read into memory: Parquet is compressed. Columns of numbers, or one column of lists, beside ``item_id``."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet  # optional: only Parquet needs it
    except ImportError:
        raise DataError(f"The {modality} features {path} need pyarrow: `pip install pyarrow`, or save them as .npy") from None
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"The {modality} features {path} are damaged ({_one_line(error)}): write the file again") from None
    ids = [str(token) for token in table[PARQUET_IDS].to_pylist()] if PARQUET_IDS in table.column_names else None
    columns = [table[name].combine_chunks() for name in table.column_names if name != PARQUET_IDS]
    if len(columns) == 1 and pyarrow.types.is_nested(columns[0].type):
        return _stacked(modality, path, columns[0], ids), ids
    try:
        return torch.from_numpy(np.stack([column.to_numpy(zero_copy_only=False).astype(np.float32) for column in columns], axis=1)), ids
    except (ValueError, TypeError):
        raise DataError(f"The {modality} features {path} must have columns of numbers, or one of lists, beside {PARQUET_IDS}") from None


def _stacked(modality: str, path: Path, column: Any, ids: list[str] | None) -> Tensor:
    """A column of lists as a matrix; the lists must be of one length."""
    rows = column.to_pylist()
    width = len(rows[0] or ()) if rows else 0
    wrong = next((place for place, row in enumerate(rows) if row is None or len(row) != width), None)
    if wrong is not None:
        item = repr(ids[wrong]) if ids is not None else f"row {wrong}"
        raise DataError(
            f"The {modality} features {path} have {len(rows[wrong] or ())} numbers for item {item} and {width} for the first: "
            "all rows must be equally wide"
        )
    return torch.tensor(np.array(rows, dtype=np.float32))


_READERS: dict[str, Callable[[str, Path], tuple[Tensor, list[str] | None]]] = {
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}


def _read_ids(modality: str, path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        words = _one_line(error)
        raise DataError(f"The ids {path} of the {modality} features cannot be read ({words}): give a text file, a token a line") from None


def _check_ids(modality: str, path: Path, ids: list[str], n_rows: int) -> None:
    if len(ids) != n_rows:
        which = f"the first item without a row is {ids[n_rows]!r}" if len(ids) > n_rows else f"the first row without an item is {len(ids)}"
        raise DataError(f"The {modality} features {path} have {n_rows} rows and {len(ids)} ids: {which}; make them fit")
    if len(set(ids)) < n_rows:
        seen: set[str] = set()
        twice = next(token for token in ids if token in seen or seen.add(token))  # type: ignore[func-returns-value]
        raise DataError(f"The {modality} features {path} have two rows for item {twice!r}: leave one of them out")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
