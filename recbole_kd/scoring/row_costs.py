"""Memory and time that a model takes to score one row, measured in small calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recbole_kd.scoring.frozen import evaluation_mode

CALL_BYTES = 256 * 2**20
"""Memory budget of the intermediate tensors of one call of a model, in bytes."""

MOST_ROWS = 2**18
"""Most rows of one call, whatever a row takes."""


@dataclass(frozen=True)
class RowCost:
    """The cost of one more row in a call.

    Attributes:
        peak: bytes of the tensors that are alive at once, without a backward pass.
        total: bytes of all tensors that are allocated: a bound of what a backward pass keeps.
        seconds: time of the call.
    """

    peak: float
    total: float
    seconds: float

    def rows_per_call(self, differentiable: bool) -> int:
        """Return how many rows fit the budget of a call."""
        cost = self.total if differentiable else self.peak
        return max(1, min(MOST_ROWS, int(CALL_BYTES / max(cost, 1.0))))


class AllocationMeter(TorchDispatchMode):
    """Count the bytes of dense tensors that operations allocate inside the block, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.live, self.peak = 0, 0, 0
        self._owners: dict[int, int] = {}  # address of a storage -> tensors that share it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_address(tensor) for tensor in _dense((args, kwargs))}
        found = func(*args, **(kwargs or {}))
        for tensor in _dense(found):
            self._see(tensor, given)
        return found

    def _see(self, tensor: Tensor, given: set[int]) -> None:
        address = _address(tensor)
        if address not in self._owners:
            if address in given or not address:
                return  # a view of what was there before the block
            size = tensor.untyped_storage().nbytes()
            self.total += size
            self.live += size
            self.peak = max(self.peak, self.live)
            self._owners[address] = 0
        self._owners[address] += 1
        weakref.finalize(tensor, self._let_go, address, tensor.untyped_storage().nbytes()).atexit = False

    def _let_go(self, address: int, size: int) -> None:
        self._owners[address] -= 1
        if not self._owners[address]:
            del self._owners[address]
            self.live -= size


def _dense(tree: Any) -> Iterable[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def row_cost(model: nn.Module, score: Callable[[int], Any], few: int, many: int) -> RowCost:
    """Measure the cost of a row, as the difference of two calls.

    So the fixed cost of a call drops out.

    The model is in evaluation mode and keeps nothing of the calls; torch's generators are as before.

    Args:
        score: scores so many rows.
        few, many: numbers of rows, few < many.
    """
    devices = [model.device] if getattr(model, "device", torch.device("cpu")).type == "cuda" else []
    with torch.random.fork_rng(devices), evaluation_mode(model):
        score(few)  # a graph model keeps its propagated tables from here on
        measured = []
        for rows in (few, many):
            with AllocationMeter() as meter:
                score(rows)
            measured.append((meter.peak, meter.total))
        started = perf_counter()
        score(many)
        seconds = (perf_counter() - started) / many
    peak, total = (max(0.0, b - a) / (many - few) for a, b in zip(*measured, strict=True))
    return RowCost(peak, total, seconds)
