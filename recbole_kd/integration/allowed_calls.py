"""The calls that a pickle may make, each mapped to our own function."""

from __future__ import annotations

import functools
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from enum import Enum
from typing import Any

from recbole_kd.integration import pickled_arrays, pickled_tensors
from recbole_kd.integration.inert_objects import Budget, Inert, Reference, RefusedError

_ENUM_MODULE = "recbole.utils.enum_type"
_ENUMS = ("ModelType", "KGDataLoaderState", "EvaluatorType", "InputType", "FeatureType", "FeatureSource")
_KEYS = (str, int, float, bool, bytes, type(None), Inert, Reference)
_LARGEST_KEY = 2**63


def _ordered_dict(*arguments: Any) -> OrderedDict[Any, Any]:
    if arguments:
        raise RefusedError("a call of collections.OrderedDict")
    return OrderedDict()


def _default_dict(*arguments: Any) -> defaultdict[Any, Any]:
    """Return RippleNet's dictionary of lists; any other factory is refused."""
    if len(arguments) != 1 or type(arguments[0]) is not Reference or str(arguments[0]) != "builtins.list":
        raise RefusedError("a call of collections.defaultdict")
    return defaultdict(list)


def _set_of(kind: type, budget: Budget, *arguments: Any) -> Any:
    """Return a set of the elements of one list, as pickle protocols below 4 write it."""
    if len(arguments) != 1 or type(arguments[0]) is not list:
        raise RefusedError(f"a call of builtins.{kind.__name__}")
    budget.spend(len(arguments[0]))
    check_keys(arguments[0])
    return kind(arguments[0])


def _enum_member(name: str, *arguments: Any) -> Enum:
    if len(arguments) != 1 or type(arguments[0]) not in (int, str):
        raise RefusedError(f"a call of {_ENUM_MODULE}.{name}")
    from recbole.utils import enum_type

    return getattr(enum_type, name)(arguments[0])


def _empty_bytes(*arguments: Any) -> bytes:
    """Return no bytes, as pickle protocols below 3 write them."""
    if arguments:
        raise RefusedError("a call of builtins.bytes")
    return b""


def _encode_latin1(budget: Budget, *arguments: Any) -> bytes:
    """Return bytes as pickle protocols below 3 write them; any other codec is refused."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        raise RefusedError(f"the codec {arguments[1:]!r:.40}")
    budget.spend(len(arguments[0]))
    return arguments[0].encode("latin1")


def check_keys(keys: Any) -> None:
    """Check that keys of dictionaries and elements of sets are plain values.

    Hashing a deeply nested tuple would overflow the stack.

    Raises:
        RefusedError: one is not plain.
    """
    for key in keys:
        if not isinstance(key, Enum) and type(key) not in _KEYS and type(key).__module__ != "numpy":
            raise RefusedError(f"a {type(key).__name__} as a key of a dictionary or an element of a set")
        if type(key) is int and not -_LARGEST_KEY <= key < _LARGEST_KEY:
            raise RefusedError("a number of more than 64 bits as a key")


def allowed_calls(budget: Budget) -> dict[tuple[str, str], Callable[..., Any]]:
    """Return every function that a file may call, by (module, name)."""
    found: dict[tuple[str, str], Callable[..., Any]] = {
        ("collections", "OrderedDict"): _ordered_dict,
        ("collections", "defaultdict"): _default_dict,
        ("builtins", "set"): functools.partial(_set_of, set, budget),
        ("builtins", "frozenset"): functools.partial(_set_of, frozenset, budget),
        ("builtins", "bytes"): _empty_bytes,
        ("_codecs", "encode"): functools.partial(_encode_latin1, budget),
        ("numpy", "dtype"): pickled_arrays.DtypeRecipe,
        ("numpy._core.multiarray", "_reconstruct"): functools.partial(pickled_arrays.ArrayRecipe, budget),
        ("numpy._core.multiarray", "scalar"): functools.partial(pickled_arrays.scalar, budget),
        ("torch", "device"): pickled_tensors.device,
        ("torch", "Size"): pickled_tensors.size,
        ("torch._utils", "_rebuild_tensor_v2"): pickled_tensors.tensor,
        ("torch._utils", "_rebuild_parameter"): pickled_tensors.parameter,
        ("torch._utils", "_rebuild_sparse_tensor"): functools.partial(pickled_tensors.sparse_tensor, budget),
        ("torch.serialization", "_get_layout"): pickled_tensors.layout,
    }
    return found | {(_ENUM_MODULE, name): functools.partial(_enum_member, name) for name in _ENUMS}
