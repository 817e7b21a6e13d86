"""Matrices of item features on disk, and the ids of their rows. No RecBole import.

A matrix stays on disk, memory-mapped, if its format allows it (``.npy``, ``.safetensors``): only the requested rows are
read.
"""

from __future__ import annotations

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
"""Suffix of id files: ``image.ids`` beside ``image.npy`` has an item token a line, in the order of the rows."""

_ROWS = 4096  # rows written at a time

PARQUET_IDS = "item_id"
"""Column of a Parquet file with the item tokens."""


@dataclass(frozen=True)
class FeatureMatrix:
    """A matrix of item features and the items of its rows.

    Attributes:
        values: ``[rows, width]`` of any float type.
        ids: the item token of each row, or None: row r then belongs to the item with the token r.
    """

    values: Tensor
    ids: list[str] | None


def read_matrix(modality: str, path: Path, ids: Path | None = None) -> FeatureMatrix:
    """Read the features of one modality.

    Args:
        path: ``.npy``, ``.safetensors`` or ``.parquet``.
        ids: text file of the item tokens; by default the file with the suffix ``.ids`` beside the matrix, if it exists.

    Raises:
        DataError: names the modality, the problem and, if single items cause it, the first such item.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise DataError(
            f"The {modality} features {path} have an unknown format: it must be one of {', '.join(_READERS)}"
        )
    if not path.is_file():
        raise DataError(
            f"The {modality} features {path} do not exist: give the file's path, or its name inside the data set's "
            "folder"
        )
    values, own_ids = reader(modality, path)
    if values.ndim != 2 or not values.is_floating_point() or 0 in values.shape:
        raise DataError(
            f"The {modality} features {path} have the shape {tuple(values.shape)} and type {str(values.dtype)[6:]}: "
            "they must be a matrix of real numbers, a row per item"
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


def _read_npy(modality: str, path: Path) -> tuple[Tensor, list[str] | None]:
    try:
        # mode c: private writable pages, which torch requires; nothing is written to the file
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False)), None
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise DataError(
            f"The {modality} features {path} are not a readable .npy matrix ({_one_line(error)}): write the file again"
        ) from None


def _read_safetensors(modality: str, path: Path) -> tuple[Tensor, list[str] | None]:
    try:
        with safe_open(path, framework="pt") as handle:
            names = list(handle.keys())
            chosen = modality if modality in names else names[0] if len(names) == 1 else None
            if chosen is not None:
                return handle.get_tensor(chosen), None
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"The {modality} features {path} are damaged ({_one_line(error)}): write the file again"
        ) from None
    raise DataError(
        f"The {modality} features {path} hold the tensors {', '.join(sorted(names))}: name one of them {modality}"
    )


def _read_parquet(modality: str, path: Path) -> tuple[Tensor, list[str] | None]:
    """Read a Parquet file into memory (it is compressed, so it cannot be memory-mapped).

    It must have columns of numbers, or one column of lists, beside ``item_id``.
    """
    try:
        import pyarrow
        import pyarrow.parquet as parquet  # optional: only Parquet needs it
    except ImportError:
        raise DataError(
            f"The {modality} features {path} need pyarrow: `pip install pyarrow`, or save them as .npy"
        ) from None
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"The {modality} features {path} are damaged ({_one_line(error)}): write the file again"
        ) from None
    ids = _parquet_ids(modality, path, table[PARQUET_IDS].to_pylist()) if PARQUET_IDS in table.column_names else None
    columns = {name: table[name].combine_chunks() for name in table.column_names if name != PARQUET_IDS}
    is_list = pyarrow.types.is_list, pyarrow.types.is_large_list, pyarrow.types.is_fixed_size_list
    lists = len(columns) == 1 and any(kind(column.type) for kind in is_list for column in columns.values())
    for name, column in columns.items():
        if not _is_number(column.type.value_type if lists else column.type):
            raise DataError(
                f"The {modality} features {path} hold {column.type} in the column {name}, from {_whose(ids, 0)} on: "
                f"they must have columns of numbers, or one of lists of numbers, beside {PARQUET_IDS}"
            )
    if lists:
        return _stacked(modality, path, next(iter(columns.values())), ids), ids
    if not columns:
        raise DataError(
            f"The {modality} features {path} have no column of numbers, nor one of lists of numbers, beside "
            f"{PARQUET_IDS}"
        )
    with np.errstate(over="ignore"):  # an overflow is refused later, if an item has it
        return torch.from_numpy(np.stack([_as_floats(column) for column in columns.values()], axis=1)), ids


def _is_number(kind: Any) -> bool:
    """Test whether a pyarrow type is numeric."""
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind))


def _as_floats(column: Any) -> np.ndarray:
    floats: np.ndarray = column.to_numpy(zero_copy_only=False).astype(np.float32)
    return floats


def _whose(ids: list[str] | None, row: int) -> str:
    return f"row {row}" if ids is None else f"item {ids[row]!r}" if row < len(ids) else "the first row"


def _parquet_ids(modality: str, path: Path, tokens: list[Any]) -> list[str]:
    if None in tokens:
        raise DataError(
            f"The {modality} features {path} have no {PARQUET_IDS} in row {tokens.index(None)}: leave the row out, or "
            "name its item"
        )
    return [str(token) for token in tokens]


def _stacked(modality: str, path: Path, column: Any, ids: list[str] | None) -> Tensor:
    """Return a column of lists of numbers as a matrix; the lists must have one length."""
    rows = column.to_pylist()
    width = len(rows[0] or ()) if rows else 0
    wrong = next((place for place, row in enumerate(rows) if row is None or len(row) != width), None)
    if wrong is not None:
        raise DataError(
            f"The {modality} features {path} have {len(rows[wrong] or ())} numbers for {_whose(ids, wrong)}"
            + (f" and {width} for the first: all rows must be equally wide" if wrong else ": every row must have some")
        )
    with np.errstate(over="ignore"):
        return torch.tensor(np.array(rows, dtype=np.float32))


_READERS: dict[str, Callable[[str, Path], tuple[Tensor, list[str] | None]]] = {
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}


def _read_ids(modality: str, path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        words = _one_line(error)
        raise DataError(
            f"The ids {path} of the {modality} features cannot be read ({words}): give a text file, a token a line"
        ) from None


def _check_ids(modality: str, path: Path, ids: list[str], n_rows: int) -> None:
    if len(ids) != n_rows:
        which = (
            f"the first item without a row is {ids[n_rows]!r}"
            if len(ids) > n_rows
            else f"the first row without an item is {len(ids)}"
        )
        raise DataError(f"The {modality} features {path} have {n_rows} rows and {len(ids)} ids: {which}; make them fit")
    if len(set(ids)) < n_rows:
        seen: set[str] = set()
        twice = next(token for token in ids if token in seen or seen.add(token))  # type: ignore[func-returns-value]
        raise DataError(f"The {modality} features {path} have two rows for item {twice!r}: leave one of them out")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
