"""Lanes: the same work on many slices, side by side, each on one thread of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


def side_by_side(work: Callable[[slice], None], parts: Iterable[slice], lanes: int) -> None:
    """Call ``work`` for every part, ``lanes`` at a time; inside it torch uses one thread and records no gradient.

    For work that is many short operations: a matrix product of two threads over one slice that fits the cache takes four times as long
    in one process as in the next, and most other operations are too short to be shared out at all. Its results do not depend on ``lanes``.

    Raises:
        Whatever ``work`` raises, once the parts under way are done.
    """
    threads = torch.get_num_threads()

    def one(part: slice) -> None:
        with torch.no_grad():
            work(part)

    try:
        with ThreadPoolExecutor(lanes, "recbole_kd", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(one, parts):
                pass
    finally:
        torch.set_num_threads(threads)  # a worker's setting is also what any later new thread of the process would start with


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
