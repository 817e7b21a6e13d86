"""Containers and calls of a forged pickle.

They give plain values only, no more memory than the size of the file, and nothing that holds itself.
"""

from __future__ import annotations

import io
import math
import pickle
import tracemalloc
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

import recbole_kd  # noqa: F401  (registers and installs)
from recbole_kd.errors import TeacherError
from recbole_kd.integration.inert_objects import Placeholder
from recbole_kd.integration.safe_load import load_pickle
from tests.support.forged_pickles import Forged, call, dtype, pickled, raw_array


def _load(content: bytes) -> Any:
    return load_pickle(io.BytesIO(content))


BOMBS: dict[str, Any] = {
    "bytearray": call("builtins", "bytearray", 10**12),
    "range": call("builtins", "range", 10**12),
    "set of a number": call("builtins", "set", 5),
    "set of a text": call("builtins", "set", "abc"),
    "slice": call("builtins", "slice", 0, 10**12),
    "complex": call("builtins", "complex", "1e999"),
    "factory": call("collections", "defaultdict", call("torch", "Size", (1,))),
    "factory by name": Forged(call("collections", "defaultdict"), None),
    "ordered pairs": call("collections", "OrderedDict", [(1, 2)]),
    "huge key": {2**64: 1},
    "number in a set": {2**80},
    "tuple as a key": {(1, (2, (3,))): 1},
    "tuple in a set": {((),)},
    "enum of nothing": call("recbole.utils.enum_type", "ModelType", 99),
    "enum of a list": call("recbole.utils.enum_type", "ModelType", [1]),
    "enum from names": call("recbole.utils.enum_type", "ModelType", "X", "a b"),
    "state of an enum": Forged(call("recbole.utils.enum_type", "ModelType", 1), {"_value_": 2}),
    "state of a dictionary": Forged(call("collections", "OrderedDict"), {"keys": 1}),
    "negative size": call("torch", "Size", (-1,)),
    "huge size": call("torch", "Size", (2**70,)),
    "device of a number": call("torch", "device", 0),
    "device meta": call("torch", "device", "meta"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_containers_take_plain_values_only(name: str) -> None:
    with pytest.raises(TeacherError):
        _load(pickled([BOMBS[name]]))


def test_a_dictionary_of_lists_is_read() -> None:
    content = defaultdict(list, {3: [1, 2]})
    found = _load(pickle.dumps(content, protocol=4))
    assert found == content and found.default_factory is list


def _laughs(levels: int) -> Any:
    value: Any = ["ha"]
    for _ in range(levels):
        value = [value] * 9
    return value


def test_what_repeats_itself_without_end_is_refused() -> None:
    itself: list[Any] = []
    itself.append(itself)
    deep: Any = []
    for _ in range(150):
        deep = [deep]
    for content in (itself, deep, _laughs(20), {"a": _laughs(12)}):
        with pytest.raises(TeacherError, match="hold themselves"):
            _load(pickle.dumps(content, protocol=4))
    for content in (b"\x80\x04" + b"]" * 50000 + b"a" * 49999 + b".", b"\x80\x04N" + b"\x85" * 200000 + b"."):
        with pytest.raises(TeacherError):
            _load(content)


def test_a_file_cannot_make_more_than_its_own_size() -> None:
    """The same megabyte is named a thousand times, as arrays and as sets."""
    block = b"\0" * 2**20
    array = [raw_array((2**20,), dtype("u1", "|"), block) for _ in range(1000)]
    numbers = list(range(10**5))
    sets = [call("builtins", "set", numbers) for _ in range(1000)]
    for content in (pickled(array), pickled(sets)):
        assert len(content) < 2 * 2**20
        tracemalloc.start()
        with pytest.raises(TeacherError, match="more memory"):
            _load(content)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
        tracemalloc.stop()


def test_nothing_inert_is_ever_returned() -> None:
    content = {"a": np.arange(3.0), "b": [np.float32(2), {"c": sp.eye(3, format="csr")}], "d": (np.bool_(True),)}
    stack, seen = [_load(pickle.dumps(content, protocol=4))], 0
    while stack:
        item = stack.pop()
        seen += 1
        assert not isinstance(item, Placeholder)
        stack.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple) else ())
    assert seen == 8 and math.isclose(content["b"][0], 2)
