"""Compiled kernels at listed items, for torch tensors on a CPU.

Functions that return None if their kernel does not apply are used as in :mod:`recbole_kd.ops.compiled`.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.ops.compiled import kernels
from recbole_kd.ops.threads import in_halves, n_threads

NUMBERS_FOR_TWO = 2**20
"""A second thread pays from products of so many numbers."""


@cache
def listed_kernels() -> Any:
    """Return the module of kernels at listed items; call only if :func:`kernels` is not None."""
    from recbole_kd.ops.kernels import listed as compiled

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
