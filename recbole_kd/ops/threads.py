"""Run the same work on many row slices in a thread pool."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_reserved: list[int] = []
"""How many threads torch had, within :func:`torch_on_one_thread`."""


def n_threads() -> int:
    """Return how many threads there are for work on slices: as many as torch has, or had."""
    return _reserved[-1] if _reserved else torch.get_num_threads()


@contextmanager
def torch_on_one_thread(wanted: bool = True) -> Iterator[None]:
    """Within it torch's own operations use one thread, and work side by side as many as before; nothing where it is not wanted.

    After an operation of two threads the second one waits for the next by spinning, for milliseconds, on the core that
    such work could
    have: if the operations are small and the work is not, both are faster without it.
    """
    if not wanted:
        yield
        return
    threads = torch.get_num_threads()
    _reserved.append(n_threads())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _reserved.pop()
        torch.set_num_threads(threads)


def same_on_any_threads(work: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return ``work(*tensors)``, computed and differentiated on one thread, so that its bits do not depend on the number of threads.

    Narrow matrix products, sums over rows and softmax gradients of torch have another order on each number of threads.

    Args:
        work: a differentiable function of the tensors alone; what else it reads gets no gradient.
    """
    found: Tensor = _OnOneThread.apply(work, *tensors)
    return found


class _OnOneThread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        inputs = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
        with torch.enable_grad(), torch_on_one_thread(tensors[0].device.type == "cpu"):
            out = work(*inputs)
        ctx.inputs, ctx.out = inputs, out
        return out.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [tensor for tensor in ctx.inputs if tensor.requires_grad]
        with torch_on_one_thread(grad.device.type == "cpu"):
            found = iter(torch.autograd.grad(ctx.out, wanted, grad, allow_unused=True))
        del ctx.out
        return (None, *(next(found) if tensor.requires_grad else None for tensor in ctx.inputs))


def side_by_side(work: Callable[[slice], None], slices: Iterable[slice], n_at_once: int) -> None:
    """Call ``work`` for every slice, ``n_at_once`` at a time; inside it torch uses one thread and records no gradient.

    For work that is many short operations: a matrix product of two threads over one slice that fits the cache takes
        four times as long
    in one process as in the next, and most other operations are too short to be shared out at all. Its results do not
    depend on ``n_at_once``.

    Raises:
        Whatever ``work`` raises, once the slices under way are done.
    """
    threads = torch.get_num_threads()

    def one(rows: slice) -> None:
        with torch.no_grad():
            work(rows)

    try:
        with ThreadPoolExecutor(n_at_once, "recbole_kd", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(one, slices):
                pass
    finally:
        torch.set_num_threads(
            threads
        )  # a worker's setting is also what any later new thread of the process would start with


def halves(n_rows: int) -> tuple[slice, slice]:
    """So many rows in two: whatever the number of threads, so that sums over each have one order."""
    return slice(0, n_rows // 2), slice(n_rows // 2, n_rows)


def in_halves(work: Callable[[slice], None], n_rows: int, both_at_once: bool) -> None:
    """Call ``work`` for the two halves of so many rows, at once or one after the other.

    For compiled kernels: it keeps its one thread and leaves torch's alone, so that a millisecond of work is worth it.
    """
    first, second = halves(n_rows)
    if both_at_once:
        other = _helper(os.getpid()).submit(work, first)
        work(second)
        other.result()
    else:
        work(first)
        work(second)


@cache
def _helper(process: int) -> ThreadPoolExecutor:
    """One more thread, kept; a forked process does not inherit it and makes its own."""
    return ThreadPoolExecutor(1, "recbole_kd")
