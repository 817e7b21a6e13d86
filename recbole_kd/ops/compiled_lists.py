"""Compiled kernels at listed items, for torch tensors on a CPU.

Functions that return None if their kernel does not apply are used as in :mod:`recbole_kd.ops.compiled`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.ops.compiled import kernels
from recbole_kd.ops.threads import in_halves, n_threads

NUMBERS_FOR_TWO = 2**20
"""A second thread pays from products of so many numbers."""


SET_NUMBERS_FROM = 2**14
"""From so many ids on the kernels of item sets are loaded."""

ROWS_AT_A_TIME = 2**16
"""Queries whose scores are laid side by side at once."""


@cache
def listed_kernels() -> Any:
    """Return the module of kernels at listed items; call only if :func:`kernels` is not None."""
    from recbole_kd.ops.kernels import listed as compiled

    return compiled


@cache
def set_kernels() -> Any:
    """Return the module of kernels of item sets; call only if :func:`kernels` is not None."""
    from recbole_kd.ops.kernels import list_sets as compiled

    return compiled


def least_width() -> int:
    """Return the least width of vectors that the kernels at listed items take."""
    return int(listed_kernels().WIDTH)


_of_thread = threading.local()


def zero_tables(like: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return two tables of zeros of a float32 tensor's shape; :func:`take_sum` gives them back.

    They are memory that is used again: fresh pages of a table's size cost more time than the sums that are written
    into them. Between the two calls no other pair may be asked for, unless in another thread, which has its own.
    """
    kept = _of_thread.__dict__.pop("tables", None)
    if kept is not None and kept[0].shape == like.shape:
        return kept[0], kept[1]
    return np.zeros(like.shape, np.float32), np.zeros(like.shape, np.float32)


def take_sum(first: np.ndarray, second: np.ndarray, found: Tensor, both: bool) -> None:
    """Write the sum of the two tables of :func:`zero_tables`, which are zeros again afterwards.

    Args:
        found: float32, written.
        both: use two threads.
    """
    flat = [table.reshape(-1) for table in (first, second, found.numpy())]
    in_halves(lambda part: listed_kernels().take_sum(*(table[part] for table in flat)), len(flat[0]), both)
    _of_thread.tables = first, second


def _listed_arrays(queries: Tensor, items: Tensor, chosen: Tensor) -> list[np.ndarray] | None:
    """Return the arguments of the kernels at listed items, with vectors of their least width.

    None if they do not apply.
    """
    if kernels() is None or chosen.device.type != "cpu" or not chosen.numel() or chosen.dtype != torch.int64:
        return None
    if queries.device.type != "cpu" or not queries.dtype == items.dtype == torch.float32 or not queries.shape[1]:
        return None
    short = max(0, least_width() - queries.shape[1])
    tables = [torch.nn.functional.pad(table, (0, short)) if short else table for table in (queries, items)]
    return [table.detach().contiguous().numpy() for table in (*tables, chosen)]


def _worth_two(n_pairs: int, width: int) -> bool:
    """Return whether a second thread pays for products of so many pairs of vectors."""
    return n_threads() > 1 and n_pairs * width >= NUMBERS_FOR_TWO


def listed_products(queries: Tensor, items: Tensor, chosen: Tensor) -> Tensor | None:
    """Return the products of :func:`recbole_kd.ops.gathered_dot.gathered_dot`, float32 ``[B, K]``.

    All ids must be in the table.
    """
    arrays = _listed_arrays(queries, items, chosen)
    if arrays is None:
        return None
    scores = torch.empty(chosen.shape)

    def work(half: slice) -> None:
        listed_kernels().listed_products(arrays[0][half], arrays[1], arrays[2][half], scores.numpy()[half])

    in_halves(work, len(chosen), _worth_two(chosen.numel(), queries.shape[1]))
    return scores


def listed_product_gradients(
    slopes: Tensor, queries: Tensor, items: Tensor, chosen: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return the gradients of :func:`listed_products` in queries and items, given those in the products."""
    arrays = _listed_arrays(queries, items, chosen)
    if arrays is None or slopes.dtype != torch.float32:
        return None
    own, table, ids = arrays
    d_queries, d_items = torch.empty(own.shape), torch.empty(table.shape)
    sums, both = zero_tables(d_items), _worth_two(chosen.numel(), queries.shape[1])
    given, d_own = slopes.contiguous().numpy(), d_queries.numpy()

    def work(half: slice) -> None:
        found = sums[int(half.start > 0)]
        listed_kernels().listed_product_gradients(given[half], own[half], table, ids[half], d_own[half], found)

    in_halves(work, len(ids), both)
    take_sum(*sums, d_items, both)
    width = queries.shape[1]
    return d_queries[:, :width], d_items[:, :width]


def draw_sets(
    ranked: Tensor, lengths: Tensor, listed: Tensor, listed_valid: Tensor, generator: torch.Generator, *,
    k: int, n_drawn: int, width: int, tau: float, most: float, from_own: bool,
) -> tuple[Tensor, Tensor, Tensor] | None:  # fmt: skip
    """Draw a sample of each query's ranking and return which items of three lists count.

    The lists are the first k ranked items, the sample, and the teacher's items that are in neither. The sample is drawn
    without replacement from the first ``width`` ranks with weights exp(count / tau). The count is the number of the
    teacher's items at or below the rank, at most ``most``; if ``from_own`` is False, below the rank and not among the
    first k. The random numbers are those of :func:`recbole_kd.ops.sampling.sample_without_replacement`; the sample is
    in the order of the ranking.

    Args:
        ranked: int64 ``[R, depth]``. lengths: int64 ``[R]``, the ranked items of each row.
        listed: int64 and listed_valid: bool, ``[R, K]``, the teacher's lists.

    Returns:
        the sample, int64 ``[R, n_drawn]``; which items of ranking, sample and teacher's list count, bool ``[R, k +
        n_drawn + K]``; and three shares, float32 ``[R, 3]``: of the teacher's items those in the sample (if
        ``from_own`` is False those among the first k), of the teacher's items those among the first k, and of the
        items that count in sample and teacher's list those among as many first ranks. None if the kernel does not
        apply.
    """
    if kernels() is None or ranked.device.type != "cpu" or ranked.numel() < max(1, SET_NUMBERS_FROM):
        return None
    noise = torch.empty(len(ranked), width).exponential_(generator=generator).log_().neg_()
    drawn = ranked.new_empty(len(ranked), n_drawn)
    valid = torch.empty(len(ranked), k + n_drawn + listed.shape[1], dtype=torch.bool)
    shares = torch.empty(len(ranked), 3)
    n_ids = 1 + int(max(ranked.max(), listed.max()))
    given = [table.contiguous().numpy() for table in (ranked, lengths, listed, listed_valid, noise)]
    written = [table.numpy() for table in (drawn, valid, shares)]

    def work(rows: slice) -> None:
        set_kernels().draw_sets(
            *(table[rows] for table in given), k, n_drawn, np.float32(tau), np.float32(most), from_own, n_ids,
            *(table[rows] for table in written),
        )  # fmt: skip

    in_halves(work, len(ranked), n_threads() > 1)
    return drawn, valid, shares


def close_up(
    chosen: Tensor, teacher: Sequence[Tensor], valid: Tensor, ends: list[int], temperature: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the items of lists that count, one after the other, with the teacher's softmax.

    Args:
        chosen: int64 or int32 and valid: bool, ``[U, n]``. teacher: float32, tables that have n columns together.
        ends: end columns of the sublists.

    Returns:
        the ends of the sublists, int64 ``[U, P + 1]``, the items, int32 ``[N]``, and the softmax, float32 ``[N]``; None
        if the kernel does not apply.
    """
    if kernels() is None or chosen.device.type != "cpu" or chosen.numel() < max(1, SET_NUMBERS_FROM):
        return None
    if chosen.dtype not in (torch.int64, torch.int32) or any(part.dtype != torch.float32 for part in teacher):
        return None
    n = int(valid.sum())
    starts = torch.empty(len(chosen), len(ends) + 1, dtype=torch.int64)
    items, target = torch.empty(n, dtype=torch.int32), torch.empty(n)
    at = 0
    for first in range(0, len(chosen), ROWS_AT_A_TIME):  # so that no second table of all scores is made
        rows = slice(first, first + ROWS_AT_A_TIME)
        scores = torch.cat([part[rows] for part in teacher], dim=1)
        given = [table.contiguous().numpy() for table in (chosen[rows], scores, valid[rows])]
        written = [table.numpy() for table in (starts[rows], items[at:], target[at:])]
        set_kernels().close_up(*given, np.array(ends), np.float32(1 / temperature), *written)
        starts[rows] += at
        at = int(starts[min(rows.stop, len(chosen)) - 1, -1])
    return starts, items, target
