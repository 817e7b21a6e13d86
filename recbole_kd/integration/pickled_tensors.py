"""Rebuilding of torch tensors from a pickle, after checks of sizes, strides and offsets.

The checks compare them with the bytes that the file has.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from typing import Any

import torch

from recbole_kd.integration.inert_objects import Budget, Placeholder, RefusedError

STORAGE_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_LARGEST = 2**62
_DEVICE = re.compile(r"[a-z]{1,20}(:[0-9]{1,3})?")


class StorageType(Placeholder):
    """The number type of a storage, with the name of torch's typed storage."""

    __slots__ = ("dtype",)

    def __init__(self, name: str) -> None:
        self.dtype = STORAGE_TYPES[name]

    def __str__(self) -> str:
        return "a type of torch's storages"


class Storage(Placeholder):
    """Bytes of a record of the archive, and their number type."""

    __slots__ = ("content", "dtype")

    def __init__(self, content: torch.UntypedStorage, dtype: torch.dtype) -> None:
        self.content = content
        self.dtype = dtype

    def __str__(self) -> str:
        return "a bare storage"


def _numbers(values: Any, what: str) -> tuple[int, ...]:
    if (
        type(values) not in (tuple, torch.Size)
        or len(values) > 64
        or not all(type(n) is int and 0 <= n < _LARGEST for n in values)
    ):
        raise ValueError(f"the {what} of a tensor are not non-negative numbers")
    return tuple(values)


def _no_hooks(hooks: Any) -> None:
    if hooks is not None and (type(hooks) is not OrderedDict or hooks):
        raise RefusedError("a tensor with hooks")


def tensor(*arguments: Any) -> torch.Tensor:
    """Return a tensor from storage, offset, sizes and strides, as ``_rebuild_tensor_v2`` does.

    Raises:
        RefusedError: the arguments are not those of a plain tensor.
        ValueError: the tensor reaches outside its storage, or repeats elements of it.
    """
    if (
        len(arguments) not in (6, 7)
        or type(arguments[0]) is not Storage
        or type(arguments[4]) is not bool
        or arguments[6:] not in ((), (None,))
    ):
        raise RefusedError("a call of torch's _rebuild_tensor_v2")
    storage, offset, sizes, strides, gradient, hooks = arguments[:6]
    _no_hooks(hooks)
    (offset,) = _numbers((offset,), "offset")
    sizes, strides = _numbers(sizes, "sizes"), _numbers(strides, "strides")
    available = storage.content.nbytes() // storage.dtype.itemsize
    count, reach = math.prod(sizes), math.prod(max(size, 1) for size in sizes)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) if count else 0
    if offset > available or reach >= _LARGEST or (count and (last >= available or count > available)):
        raise ValueError("a tensor reaches outside the bytes that the file has for it")
    made = torch.empty(0, dtype=storage.dtype, device=storage.content.device).set_(
        storage.content, offset, sizes, strides
    )
    return made.requires_grad_(gradient) if gradient else made


def parameter(*arguments: Any) -> torch.nn.Parameter:
    """Return the parameter of a tensor, as torch's ``_rebuild_parameter`` does.

    Raises:
        RefusedError: the arguments are not those of a plain parameter.
    """
    if len(arguments) != 3 or type(arguments[0]) is not torch.Tensor or type(arguments[1]) is not bool:
        raise RefusedError("a call of torch's _rebuild_parameter")
    _no_hooks(arguments[2])
    return torch.nn.Parameter(arguments[0], arguments[1])


def sparse_tensor(budget: Budget, *arguments: Any) -> torch.Tensor:
    """Return a sparse COO tensor, after comparing its indices with its size.

    Raises:
        RefusedError: the layout is another one, or the parts are not plain tensors.
        ValueError, RuntimeError: an index is out of range, or the parts do not match.
    """
    if (
        len(arguments) != 2
        or arguments[0] is not torch.sparse_coo
        or type(arguments[1]) is not tuple
        or len(arguments[1]) not in (3, 4)
    ):
        raise RefusedError("a call of torch's _rebuild_sparse_tensor")
    indices, values, size = arguments[1][:3]
    if type(indices) is not torch.Tensor or type(values) is not torch.Tensor or indices.dtype != torch.int64:
        raise RefusedError("a sparse tensor whose parts are not tensors")
    budget.spend(indices.nbytes + values.nbytes)
    made = torch.sparse_coo_tensor(indices, values, _numbers(size, "sizes"), check_invariants=True)
    return made.coalesce() if arguments[1][3:] == (True,) else made


def layout(*arguments: Any) -> torch.layout:
    """Return torch's layout of a name; RecBole's files have only COO.

    Raises:
        RefusedError: it is another one.
    """
    if arguments != ("torch.sparse_coo",):
        raise RefusedError("a layout of tensors other than torch.sparse_coo")
    return torch.sparse_coo


def size(*arguments: Any) -> torch.Size:
    """Return a ``torch.Size`` of non-negative numbers.

    Raises:
        RefusedError: the argument is not one tuple.
        ValueError: a number is negative or too large.
    """
    if len(arguments) != 1:
        raise RefusedError("a call of torch.Size")
    return torch.Size(_numbers(arguments[0], "sizes"))


def device(*arguments: Any) -> torch.device:
    """Return a ``torch.device`` from a type and a number.

    Raises:
        RefusedError: the arguments are not a device.
    """
    kind, number = (*arguments, None)[:2]
    if (
        len(arguments) not in (1, 2)
        or not is_device(kind)
        or not (number is None or (type(number) is int and 0 <= number < 1000))
    ):
        raise RefusedError("a call of torch.device")
    return torch.device(kind) if number is None else torch.device(kind, number)


def is_device(text: Any) -> bool:
    """Test whether ``text`` names a device with memory, such as cpu or cuda:0."""
    return type(text) is str and _DEVICE.fullmatch(text) is not None and not text.startswith("meta")
