"""Arrays, scalars, types and matrices of a forged pickle.

What contradicts itself is refused, and nothing of numpy's own unpickling runs.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest

import recbole_kd  # noqa: F401  (registers and installs)
from recbole_kd.errors import TeacherError
from recbole_kd.integration.safe_load import load_pickle
from tests.support.forged_pickles import Forged, call, dtype, pickled, raw_array


def _load(content: bytes) -> Any:
    return load_pickle(io.BytesIO(content))


PLAIN = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", PLAIN)
def test_every_plain_type_in_every_order_is_read_as_native(kind: str, order: str, protocol: int) -> None:
    values = np.array([[0, 1, 3], [1, 0, 7]]).astype(np.dtype(order + kind))
    for array in (values, np.asfortranarray(values), values[:, ::2], values[:0], np.array(values[0, 0])):
        found = _load(pickle.dumps(array, protocol=protocol))
        assert found.dtype.isnative and found.dtype == values.dtype.newbyteorder("=")
        assert found.flags.writeable
        np.testing.assert_array_equal(found, array)
        assert found.shape == array.shape
    scalar = _load(pickle.dumps(values[1, 2], protocol=protocol))
    assert scalar == values[1, 2] and type(scalar) is type(values[1, 2])


def test_arrays_that_share_a_type_and_arrays_that_are_shared() -> None:
    kind = np.dtype(">i4")
    one, two = np.arange(3, dtype=kind), np.arange(4, dtype=kind)
    found = _load(pickle.dumps([one, two, one, np.float64(1.5), kind.type(7)], protocol=4))
    assert found[0] is found[2]
    assert [list(part) for part in found[:2]] == [[0, 1, 2], [0, 1, 2, 3]]
    assert found[3:] == [1.5, 7]


def test_truth_values_are_true_or_false_whatever_the_file_holds() -> None:
    found = _load(pickled(raw_array((3,), dtype("b1", "|"), b"\x00\x02\xff")))
    assert found.tolist() == [False, True, True] and set(found.view(np.uint8)) <= {0, 1}


BAD_TYPES: dict[str, np.dtype[Any]] = {
    "fields": np.dtype([("a", "f8"), ("b", "O")]),
    "fields with offsets": np.dtype({"names": ["a"], "formats": ["f8"], "offsets": [400], "itemsize": 800}),
    "nested fields": np.dtype([("a", [("b", "f8")])]),
    "aligned": np.dtype([("a", "i1"), ("b", "f8")], align=True),
    "subarray in a field": np.dtype([("a", "f8", (3,))]),
    "void": np.dtype("V8"),
    "empty void": np.dtype("V0"),
    "bytes": np.dtype("S5"),
    "text": np.dtype("U5"),
    "time": np.dtype("M8[s]"),
    "duration": np.dtype("m8[ns]"),
    "long double": np.dtype("g"),
    "object": np.dtype("O"),
}


@pytest.mark.parametrize("name", BAD_TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (2,), (2, 2)])
def test_other_types_are_refused(name: str, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, BAD_TYPES[name])
    for value in (array, BAD_TYPES[name], {"deep": [array]}, [BAD_TYPES[name], array]):
        with pytest.raises(TeacherError):
            _load(pickle.dumps(value, protocol=4))
    if not shape and name != "object":
        with pytest.raises(TeacherError):
            _load(pickle.dumps(array[()], protocol=4))


def test_an_array_of_subarrays_is_one_of_more_dimensions_but_the_type_alone_is_refused() -> None:
    kind = np.dtype(("f8", (3,)))
    assert _load(pickle.dumps(np.ones(2, kind), protocol=4)).shape == (2, 3)
    for value in (kind, np.dtype([("a", kind)])):
        with pytest.raises(TeacherError):
            _load(pickle.dumps(value, protocol=4))
    state = (3, "|", (np.dtype("f8"), (3,)), None, None, 24, 8, 0)
    with pytest.raises(TeacherError, match="numpy"):
        _load(pickled(raw_array((2,), Forged(call("numpy", "dtype", "f8"), state), b"\0" * 48)))


def test_a_subclass_of_arrays_is_refused() -> None:
    for value in (np.rec.array([(1, 2.0)]), np.ma.array([1]), np.zeros(2).view(np.recarray)):
        with pytest.raises(TeacherError):
            _load(pickle.dumps(value, protocol=4))


TEXTS = [
    "f8,f8",
    "O,f8",
    "(2,)f8",
    "<f8",
    "float64",
    "f",
    "f16",
    "c32",
    "V",
    "V8",
    "S",
    "S9",
    "U-1",
    "U",
    "a5",
    "M8",
    "e",
    "p",
    "P",
    "",
    "f8\n",
    " f8",
    "8f",
]


@pytest.mark.parametrize(
    "text",
    [
        *TEXTS,
        None,
        8,
        2**63,
        b"f8",
        ("f8", 3),
        [("a", "f8")],
        {"names": ["a"], "formats": ["f8"]},
        float,
        np.float64(1),
    ],
)
@pytest.mark.parametrize("flags", [(), (False, True)])
def test_a_type_is_a_text_of_the_short_list(text: Any, flags: tuple[Any, ...]) -> None:
    with pytest.raises(TeacherError):
        _load(pickled(raw_array((1,), call("numpy", "dtype", text, *flags), b"\0" * 8)))


@pytest.mark.parametrize(
    "arguments", [("f8", True, True), ("f8", False, True, {}), ("f8", "x"), ("f8", False, None), ()]
)
def test_a_type_takes_no_alignment_and_nothing_else(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TeacherError, match=r"numpy\.dtype"):
        _load(pickled(raw_array((1,), call("numpy", "dtype", *arguments), b"\0" * 8)))


GOOD_STATE: tuple[Any, ...] = (3, "<", None, None, None, -1, -1, 0)
BAD_PARTS: list[tuple[int, Any]] = [
    *((0, version) for version in (0, 1, 2, 4, 2**70, "3", 3.0, None, True)),
    *((1, order) for order in ("", "x", "<<", None, 0, b"<")),
    *((place, value) for place in (2, 3, 4) for value in (0, (), ("a",), {}, "x", ((2,), "f8"))),
    *((5, size) for size in (0, 1, 8, 800, -2, -(2**31), 2**31, 2**63, None, "8")),
    *((6, alignment) for alignment in (0, 1, 8, -8, 2**40, None)),
    *((7, flags) for flags in (1, 2, 63, 255, -1, 2**64, None, False)),
]


@pytest.mark.parametrize(("place", "value"), BAD_PARTS)
@pytest.mark.parametrize("text", ["f8", "i4", "O"])
def test_a_state_of_a_type_says_nothing_but_the_order(text: str, place: int, value: Any) -> None:
    state = (*GOOD_STATE[:place], value, *GOOD_STATE[place + 1 :])
    if text == "O" and (place, value) == (7, 63):
        return  # the state of object types themselves
    data: Any = [1, 2] if text == "O" else b"\0" * 16
    with pytest.raises(TeacherError):
        _load(pickled(raw_array((2,), Forged(call("numpy", "dtype", text, False, True), state), data)))


@pytest.mark.parametrize(
    "state",
    [
        (),
        GOOD_STATE[:7],
        (*GOOD_STATE, {}),
        list(GOOD_STATE),
        {},
        None,
        "x",
        0,
        {"itemsize": 800},
        (None, {"itemsize": 800}),
    ],
)
def test_a_state_of_another_form_is_refused(state: Any) -> None:
    with pytest.raises(TeacherError, match=r"numpy\.dtype"):
        _load(pickled(raw_array((2,), Forged(call("numpy", "dtype", "f8"), state), b"\0" * 16)))


@pytest.mark.parametrize(
    "second", [GOOD_STATE, (3, ">", None, None, None, -1, -1, 0), (3, "<", None, None, None, 800, 1, 0)]
)
def test_a_type_that_is_remembered_cannot_be_changed(second: tuple[Any, ...]) -> None:
    """The array is made first; then the type that it was made with is given another state."""
    kind = dtype("f8", "<")
    array = raw_array((2,), kind, b"\0" * 16)
    for content in (
        [array, Forged(kind, second)],
        [kind, Forged(kind, second), array],
        [array, Forged(kind, second), array],
    ):
        with pytest.raises(TeacherError, match=r"numpy\.dtype"):
            _load(pickled(content))


def test_numpys_own_types_are_untouched() -> None:
    before = [(np.dtype(kind).itemsize, np.dtype(kind).alignment, np.dtype(kind).flags) for kind in PLAIN]
    for size in (0, 1, 800):
        with pytest.raises(TeacherError):
            _load(pickled([Forged(dtype("f8", "<"), (3, "<", None, None, None, size, 1, 0))]))
    assert [(np.dtype(kind).itemsize, np.dtype(kind).alignment, np.dtype(kind).flags) for kind in PLAIN] == before


SHAPES = [
    (3,),
    (1,),
    (-2,),
    (-1,),
    (2, -1),
    (2, 2),
    (2**31,),
    (2**62,),
    (2**63,),
    (2**64, 0),
    (0, 2**62),
    (2**32, 2**32),
    (2**62, 4),
    (0,),
    (),
]


@pytest.mark.parametrize(
    "shape", [*SHAPES, (2.0,), (True, True), ("2",), (None,), [2], 2, None, (1,) * 70, ((2,),), (2**62, 2**62, 0)]
)
@pytest.mark.parametrize("by_columns", [False, True])
def test_bytes_must_be_those_of_the_shape(shape: Any, by_columns: bool) -> None:
    with pytest.raises(TeacherError):
        _load(pickled(raw_array(shape, dtype("f8", "<"), b"\0" * 16, by_columns=by_columns)))


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 15, b"\0" * 17, "\0" * 16, [0.0, 0.0], None, 16, bytearray(16), (b"\0" * 16,)]
)
def test_data_must_be_bytes_of_the_right_number(data: Any) -> None:
    with pytest.raises(TeacherError):
        _load(pickled(raw_array((2,), dtype("f8", "<"), data)))


@pytest.mark.parametrize("head", [(0,), (2,), ("1",), (True,), (None,), ()])
def test_an_array_has_the_state_that_numpy_writes(head: tuple[Any, ...]) -> None:
    state = (*head, (2,), dtype("f8", "<"), False, b"\0" * 16)
    with pytest.raises(TeacherError, match=r"numpy\.ndarray"):
        _load(pickled(Forged(call("numpy._core.multiarray", "_reconstruct", np.ndarray, (0,), b"b"), state)))


@pytest.mark.parametrize("kind", ["f8", None, np.float64, 8, float])
def test_an_array_needs_a_type_of_the_pickle(kind: Any) -> None:
    with pytest.raises(TeacherError):
        _load(pickled(raw_array((2,), kind, b"\0" * 16)))


@pytest.mark.parametrize(
    "arguments",
    [
        ((2,), b"b"),
        ((2**40,), b"b"),
        ((0,), b"d"),
        ((0,), "b"),
        ((0,),),
        (),
        ((0, 5), b"b"),
        (0, b"b"),
        ((0,), b"b", 1),
    ],
)
def test_an_array_is_made_empty(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TeacherError, match="_reconstruct"):
        _load(pickled(call("numpy._core.multiarray", "_reconstruct", np.ndarray, *arguments)))


def test_an_array_takes_one_state_and_none_is_left_without() -> None:
    empty = call("numpy._core.multiarray", "_reconstruct", np.ndarray, (0,), b"b")
    state = (1, (2,), dtype("f8", "<"), False, b"\0" * 16)
    array = Forged(empty, state)
    for content in (empty, [empty, array], [array, Forged(array, state)], {"a": dtype("f8", "<")}):
        with pytest.raises(TeacherError):
            _load(pickled(content))
    assert _load(pickled([array, array]))[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0" * 9, "\0" * 8, 1.0, None, [1.0]])
@pytest.mark.parametrize("text", ["f8", "O", "O8", "U2"])
def test_a_scalar_is_its_bytes(text: str, data: Any) -> None:
    with pytest.raises(TeacherError):
        _load(
            pickled(
                call(
                    "numpy._core.multiarray",
                    "scalar",
                    dtype(text, "<") if text == "f8" else call("numpy", "dtype", text),
                    data,
                )
            )
        )


@pytest.mark.parametrize("content", [[1, 2], [[1, 2], [3]], [None, None], [{}, []]])
def test_object_arrays_stay_inside_matrices_of_lists(content: list[Any]) -> None:
    kind = Forged(call("numpy", "dtype", "O8", False, True), (3, "|", None, None, None, -1, -1, 63))
    with pytest.raises(TeacherError, match="an array of objects"):
        _load(pickled(raw_array((2,), kind, content)))
    for shape in ((3,), (1, 2), (), (2**40,), (-2,)):
        with pytest.raises(TeacherError):
            _load(pickled(raw_array(shape, kind, content)))
