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
"""Number of threads that torch had outside :func:`torch_on_one_thread`."""


def n_threads() -> int:
    """Return the number of threads for work on slices: torch's, before any reduction."""
    return _reserved[-1] if _reserved else torch.get_num_threads()


@contextmanager
def torch_on_one_thread(wanted: bool = True) -> Iterator[None]:
    """Limit torch's own operations to one thread, while work on slices keeps all threads.

    After an operation on two threads the second one waits for the next operation by spinning, for milliseconds, on a
    core that the work on slices could use. If the operations are small and that work is large, both are faster
    without it. If ``wanted`` is False nothing changes.
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
    """Return ``work(*tensors)`` with the same bits on any number of threads.

    It is computed and differentiated on one thread. Narrow matrix products, sums over rows and softmax gradients of
    torch use another order of summation for each number of threads.

    Args:
        work: a differentiable function of the tensors alone; anything else that it reads gets no gradient.
    """
    if torch.compiler.is_compiling():  # compiled code has an order of its own
        return work(*tensors)
    found: Tensor = _OnOneThread.apply(work, *tensors)
    return found


class _OnOneThread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        inputs = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors]
        with torch.enable_grad(), torch_on_one_thread(tensors[0].device.type == "cpu"):
            out = work(*inputs)
        ctx.work, ctx.inputs, ctx.out = work, inputs, out
        return out.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [tensor for tensor in ctx.inputs if tensor.requires_grad]
        out, ctx.out = ctx.out, None  # its memory is free after the first backward pass; a second one computes it anew
        with torch_on_one_thread(grad.device.type == "cpu"):
            if out is None:
                with torch.enable_grad():
                    out = ctx.work(*ctx.inputs)
            found = iter(torch.autograd.grad(out, wanted, grad, allow_unused=True))
        return (None, *(next(found) if tensor.requires_grad else None for tensor in ctx.inputs))


def side_by_side(work: Callable[[slice], None], slices: Iterable[slice], n_at_once: int) -> None:
    """Call ``work`` for every slice, ``n_at_once`` at a time, without gradients.

    Inside ``work`` torch uses one thread. Use it for work that is many short operations: a matrix product of two
    threads over one slice that fits the cache takes four times as long in one process as in the next, and most other
    operations are too short to be split at all. The results do not depend on ``n_at_once``.

    Raises:
        Exception: whatever ``work`` raises, once the slices under way are done.
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
        torch.set_num_threads(threads)  # a worker's setting is also the default of any later thread of the process


def halves(n_rows: int) -> tuple[slice, slice]:
    """Split the rows in two halves that do not depend on the number of threads.

    So sums over each half have one order.
    """
    return slice(0, n_rows // 2), slice(n_rows // 2, n_rows)


def in_halves(work: Callable[[slice], None], n_rows: int, both_at_once: bool) -> None:
    """Call ``work`` for the two halves of the rows, at once or one after the other.

    Meant for compiled kernels: the second thread is kept and torch's threads stay unchanged, so that even a millisecond
    of work pays.
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
    """Return one more thread, kept for later calls; a forked process makes its own."""
    return ThreadPoolExecutor(1, "recbole_kd")
