"""Sparse matrices of a forged pickle: indices, limits and lists are compared with the shape before scipy sees them."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

import recbole_kd  # noqa: F401  (registers and installs)
from recbole_kd.errors import TeacherError
from recbole_kd.integration.safe_load import load_pickle
from tests.support.forged_pickles import Forged, new, pickled


def _load(content: bytes) -> Any:
    return load_pickle(io.BytesIO(content))


def _lil(rows: Any, data: Any, shape: tuple[int, int] = (2, 5)) -> Any:
    matrix = sp.lil_matrix((2, 5))
    state = dict(vars(matrix), _shape=shape, dtype=matrix.dtype)
    for key, parts in (("rows", rows), ("data", data)):
        state[key] = np.empty(len(parts), dtype=object)
        state[key][:] = parts
    return Forged(new("scipy.sparse._lil", "lil_matrix"), state)


LISTS: dict[str, tuple[Any, ...]] = {
    "outside": ([[1, 5], []], [[1.0, 2.0], []]),
    "negative": ([[-1, 2], []], [[1.0, 2.0], []]),
    "huge": ([[2**70], []], [[1.0], []]),
    "unsorted": ([[2, 1], []], [[1.0, 2.0], []]),
    "repeated": ([[1, 1], []], [[1.0, 2.0], []]),
    "more columns": ([[1, 2], []], [[1.0], []]),
    "text": ([["1"], []], [[1.0], []]),
    "truth": ([[True], []], [[1.0], []]),
    "nested": ([[1], []], [[[1.0]], []]),
    "values of text": ([[1], []], [["x"], []]),
    "no list": ([(1,), []], [[1.0], []]),
    "too few rows": ([[1]], [[1.0]]),
    "too many rows": ([[1], [], []], [[1.0], [], []]),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_matrix_of_lists_is_checked_element_by_element(name: str) -> None:
    with pytest.raises(TeacherError):
        _load(pickled(_lil(*LISTS[name])))
    found = _load(pickled(_lil([[1, 3], []], [[1.0, 2.0], []])))
    assert found.toarray().tolist() == [[0, 1, 0, 2, 0], [0] * 5] and (found @ np.ones(5)).tolist() == [3, 0]


def _changed(kind: str, change: Callable[[dict[str, Any]], None]) -> bytes:
    matrix = sp.random(4, 5, 0.5, format=kind, random_state=1)
    state = dict(vars(matrix))
    change(state)
    return pickled(Forged(new(type(matrix).__module__, type(matrix).__name__), state))


def _set(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({f"_{key}" if key == "shape" else key: value for key, value in changes.items()})


CHANGES = {
    **{
        f"shape {shape}": _set(shape=shape)
        for shape in [
            (4, 2),
            (2, 5),
            (5, 5),
            (4, 6),
            (-4, 5),
            (4,),
            (4, 5, 1),
            (2**40, 5),
            (0, 0),
            [4, 5],
            (4.0, 5.0),
            ("4", "5"),
            (),
            None,
            (2**70, 5),
        ]
    },
    "indices as float": lambda state: state.update(indices=state["indices"].astype(float)),
    "indices of 16 bits": lambda state: state.update(indices=state["indices"].astype(np.int16)),
    "unsigned indices": lambda state: state.update(indices=state["indices"].astype(np.uint32)),
    "indices of text": _set(indices=np.array(["1"] * 10)),
    "fewer indices": lambda state: state.update(indices=state["indices"][1:]),
    "fewer data": lambda state: state.update(data=state["data"][1:]),
    "two-dimensional data": lambda state: state.update(data=state["data"].reshape(2, -1)),
    "a list as data": lambda state: state.update(data=state["data"].tolist()),
    "negative limits": lambda state: state.update(indptr=-state["indptr"]),
    "falling limits": lambda state: state.update(indptr=state["indptr"][::-1]),
    "limits from above": lambda state: state.update(indptr=state["indptr"] + 1),
    "wild limits": lambda state: state.update(indptr=np.array([0, 10**6, 0, 3, 10], np.int32)),
    "no limits": lambda state: state.pop("indptr"),
    "short limits": lambda state: state.update(indptr=state["indptr"][:-1]),
    "another key": _set(check_format=OrderedDict),
    "a private key": _set(_shape2=(1, 1)),
}


FITTING = {("csr", "shape (4, 6)"), ("csc", "shape (5, 5)")}
"""More columns, or rows, than are used: no contradiction."""


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("csr", "csc") for name in CHANGES if (kind, name) not in FITTING]
)
def test_parts_of_a_compressed_matrix_must_fit(kind: str, name: str) -> None:
    content = _changed(kind, CHANGES[name])
    assert _load(_changed(kind, lambda state: None)).nnz == 10
    with pytest.raises(TeacherError):
        _load(content)


@pytest.mark.parametrize(
    "coordinates", [([4, 0], [0, 0]), ([-1, 0], [0, 0]), ([0, 0], [5, 0]), ([0], [0, 0]), ([0.0, 1.0], [0, 0])]
)
@pytest.mark.parametrize("as_pair", [False, True])
def test_coordinates_must_lie_in_the_shape(coordinates: Any, as_pair: bool) -> None:
    rows, columns = (np.asarray(part, dtype=None if isinstance(part[0], float) else np.int32) for part in coordinates)
    state: dict[str, Any] = {"_shape": (4, 5), "maxprint": 50, "data": np.ones(2), "has_canonical_format": False}
    state |= {"coords": (rows, columns)} if as_pair else {"row": rows, "col": columns}
    with pytest.raises(TeacherError):
        _load(pickled(Forged(new("scipy.sparse._coo", "coo_matrix"), state)))
    state |= (
        {"coords": (np.array([0, 3], np.int32),) * 2}
        if as_pair
        else {"row": np.array([0, 3], np.int32), "col": np.array([0, 3], np.int32)}
    )
    found = _load(pickled(Forged(new("scipy.sparse._coo", "coo_matrix"), state)))
    assert found.toarray()[3, 3] == 1 and found.nnz == 2
