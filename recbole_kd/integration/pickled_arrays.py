"""Rebuilding of numpy arrays, scalars and sparse matrices without numpy's unpickling.

numpy trusts the sizes, alignments, fields and flags in a pickle, so a file could make it read and write outside an
array. Here a dtype is a text from a short list, and an array is a copy of bytes whose number must match its shape.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_kd.integration.inert_objects import Budget, Inert, Placeholder, Recipe, Reference, RefusedError

_PLAIN = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])
_OBJECT = frozenset(["O", "O8"])  # rows of a lil matrix: ItemKNN and SLIMElastic
_TEXT = re.compile(
    r"U[0-9]{1,9}"
)  # in the pickled data set of SASRecF, FDSA, GRU4RecF, DIN and DIEN: read as inert objects
_MOST_DIMENSIONS = 8
_LONGEST = 2**31 - 1  # elements along one dimension
_INDEX_TYPES = ("int32", "int64")


class DtypeRecipe(Recipe):
    """The element type of an array: a text from the short list, and a byte order."""

    __slots__ = ("order", "text")

    def __init__(self, *arguments: Any) -> None:
        super().__init__("numpy", "dtype")
        text = arguments[0] if arguments else None
        # numpy writes (text, align=False, copy=True); old versions write 0 and 1.
        if type(text) is not str or arguments[1:] not in ((), (False,), (False, True)):
            raise RefusedError("a call of numpy.dtype")
        if text not in _PLAIN | _OBJECT and not _TEXT.fullmatch(text):
            raise RefusedError(f"the numpy type {text[:20]!r}")
        self.text = text
        self.order = "="

    @property
    def is_plain(self) -> bool:
        return self.text in _PLAIN

    @property
    def is_object(self) -> bool:
        return self.text in _OBJECT

    def _build(self, state: Any) -> DtypeRecipe:
        if type(state) is not tuple or len(state) != 8 or not {type(part) for part in state} <= {int, str, type(None)}:
            self.refuse_state()
        if self.is_plain:
            expected: tuple[Any, ...] = (None, None, None, -1, -1, 0)
        elif self.is_object:
            expected = (None, None, None, -1, -1, 63)
        else:
            expected = (None, None, None, 4 * int(self.text[1:]), 4, 8)
        version, order = state[:2]
        if version != 3 or order not in ("<", ">", "|", "=") or state[2:] != expected:
            self.refuse_state()
        self.order = order
        return self

    def numpy_type(self) -> np.dtype[Any]:
        """Return a new numpy dtype, built from two short texts of known content."""
        return np.dtype(f"{'=' if self.order == '|' else self.order}{self.text}")

    def read(self, data: Any, shape: tuple[int, ...], budget: Budget) -> np.ndarray[Any, Any]:
        """Return a copy of ``data`` as an array of ``shape`` in this machine's byte order.

        Raises:
            ValueError: the number of bytes does not match the shape.
        """
        stored = self.numpy_type()
        if type(data) is not bytes or len(data) != math.prod(shape) * stored.itemsize:
            raise ValueError("the bytes of an array do not fit its shape")
        budget.spend(len(data))
        if self.text == "b1":
            return (np.frombuffer(data, np.uint8) != 0).reshape(shape)  # a boolean in the file may be neither 0 nor 1
        return np.frombuffer(data, stored).reshape(shape).astype(stored.newbyteorder("="), copy=True)


def is_dtype(value: Any) -> bool:
    """Test whether ``value`` is a dtype read from a pickle."""
    return type(value) is DtypeRecipe


def scalar(budget: Budget, *arguments: Any) -> Any:
    """Return the numpy scalar for a dtype and its bytes; a text stays inert.

    Raises:
        RefusedError: the arguments are not those that numpy writes, or the type is not on the list.
        ValueError: the number of bytes does not match the type.
    """
    if len(arguments) != 2 or not is_dtype(arguments[0]) or arguments[0].is_object:
        raise RefusedError("a call of numpy's scalar")
    dtype, data = arguments
    return dtype.read(data, (), budget)[()] if dtype.is_plain else Inert(Reference("numpy", "str_"))


class ObjectRow(Placeholder):
    """The elements of a one-dimensional array of objects, which only lil matrices have."""

    __slots__ = ("elements",)

    def __init__(self, elements: list[Any]) -> None:
        self.elements = elements

    def __str__(self) -> str:
        return "an array of objects"


class ArrayRecipe(Recipe):
    """An array without its state yet: version, shape, dtype, order, bytes."""

    __slots__ = ("budget",)

    def __init__(self, budget: Budget, *arguments: Any) -> None:
        kind = arguments[0] if arguments else None
        if type(kind) is not Reference or kind.name not in ("ndarray", "matrix") or arguments[1:] != ((0,), b"b"):
            raise RefusedError("a call of numpy's _reconstruct")
        super().__init__("numpy", kind.name)
        self.budget = budget

    def _build(self, state: Any) -> Any:
        if type(state) is not tuple or len(state) != 5 or type(state[0]) is not int or state[0] != 1:
            self.refuse_state()
        _, shape, dtype, by_columns, data = state
        if not is_dtype(dtype) or type(by_columns) is not bool:
            self.refuse_state()
        check_shape(shape)
        is_matrix = self.reference.name == "matrix"
        if dtype.is_object:
            if is_matrix or type(data) is not list or len(shape) != 1 or len(data) != shape[0]:
                self.refuse_state()
            return ObjectRow(data)
        if not dtype.is_plain:
            return Inert(self.reference)
        array = dtype.read(data, shape[::-1] if by_columns else shape, self.budget)
        array = array.T if by_columns else array
        if is_matrix and array.ndim != 2:
            self.refuse_state()
        return np.asmatrix(array) if is_matrix else array


def check_shape(shape: Any) -> None:
    """Check that ``shape`` is a tuple of a few integers from 0 to 2**31 - 1.

    Raises:
        ValueError: it is not.
    """
    if (
        type(shape) is not tuple
        or len(shape) > _MOST_DIMENSIONS
        or not all(type(n) is int and 0 <= n <= _LONGEST for n in shape)
    ):
        raise ValueError("the shape of an array is not valid")


class SparseRecipe(Recipe):
    """A sparse matrix without its state yet, a dictionary of its parts."""

    __slots__ = ("budget",)

    _KEYS = frozenset(
        [
            *("_shape", "maxprint", "data", "indices", "indptr", "row", "col", "coords", "rows", "dtype"),
            *("_has_canonical_format", "_has_sorted_indices", "has_canonical_format"),
        ]
    )

    def __init__(self, module: str, name: str, budget: Budget) -> None:
        super().__init__(module, name)
        self.budget = budget

    def _build(self, state: Any) -> Any:
        if type(state) is not dict or not all(type(key) is str for key in state) or not self._KEYS.issuperset(state):
            self.refuse_state()
        shape: Any = state.get("_shape")
        kind = self.reference.name[:3]
        check_shape(shape)
        if len(shape) != 2:
            raise ValueError("a sparse matrix does not have two dimensions")
        make = getattr(sp, self.reference.name)
        if kind == "lil":
            return self._lil(make, shape, state)
        data = _vector(state.get("data"))
        if kind == "coo":
            coords: Any = state.get("coords") or (state.get("row"), state.get("col"))
            if type(coords) is not tuple or len(coords) != 2:
                raise ValueError("a sparse matrix lacks its indices")
            return _coo(make, shape, data, _indices(coords[0]), _indices(coords[1]))
        indices, starts = _indices(state.get("indices")), _indices(state.get("indptr"))
        n = shape[0 if kind == "csr" else 1]
        _check_indices(indices, shape[1 if kind == "csr" else 0])
        if (
            len(starts) != n + 1
            or starts[0] != 0
            or starts[-1] != len(data)
            or len(indices) != len(data)
            or (np.diff(starts) < 0).any()
        ):
            raise ValueError("the row limits of a sparse matrix do not fit its shape")
        return make((data, indices, starts), shape=shape)

    def _lil(self, make: Any, shape: tuple[int, int], state: dict[str, Any]) -> Any:
        """Build a lil matrix element by element."""
        rows, data = state.get("rows"), state.get("data")
        dtype: Any = state.get("dtype")
        if type(rows) is not ObjectRow or type(data) is not ObjectRow or not is_dtype(dtype) or not dtype.is_plain:
            self.refuse_state()
        if not len(rows.elements) == len(data.elements) == shape[0]:
            raise ValueError("the rows of a sparse matrix do not fit its shape")
        self.budget.spend(shape[0])
        matrix = make(shape, dtype=dtype.numpy_type().newbyteorder("="))
        for number, (columns, values) in enumerate(zip(rows.elements, data.elements, strict=True)):
            if type(columns) is not list or type(values) is not list or len(columns) != len(values):
                raise ValueError("a row of a sparse matrix does not have as many columns as values")
            if not all(type(c) is int or isinstance(c, np.integer) for c in columns) or not all(
                _is_number(v) for v in values
            ):
                self.refuse_state()
            places = [int(column) for column in columns]
            if places and (places[0] < 0 or places[-1] >= shape[1] or any(a >= b for a, b in pairwise(places))):
                raise ValueError("a sparse matrix has an index outside its shape")
            self.budget.spend(len(places))
            matrix.rows[number], matrix.data[number] = places, list(values)
        return matrix


def _is_number(value: Any) -> bool:
    return type(value) in (int, float, bool, complex) or isinstance(value, np.number | np.bool_)


def _coo(make: Any, shape: tuple[int, int], data: Any, rows: Any, columns: Any) -> Any:
    if not len(rows) == len(columns) == len(data):
        raise ValueError("a sparse matrix does not have as many indices as values")
    _check_indices(rows, shape[0])
    _check_indices(columns, shape[1])
    return make((data, (rows, columns)), shape=shape)


def _check_indices(indices: np.ndarray[Any, Any], size: int) -> None:
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise ValueError("a sparse matrix has an index outside its shape")


def _vector(value: Any) -> np.ndarray[Any, Any]:
    if type(value) is not np.ndarray or value.ndim != 1:
        raise ValueError("a part of a sparse matrix is not a row of numbers")
    return value


def _indices(value: Any) -> np.ndarray[Any, Any]:
    if _vector(value).dtype.name not in _INDEX_TYPES:
        raise ValueError("the indices of a sparse matrix are not integers of 32 or 64 bits")
    return _vector(value)
