"""Propagation of vectors over a symmetric graph, compiled by numba, ``WIDTH`` columns at a time.

The columns of a table do not depend on each other. All layers are computed for a block of columns before the next, so
that every product reads its vectors from the cache: a block of 30,000 vectors takes 4 MB, a whole table of width 2000
240 MB. With Horner's rule, sum_k A^k X = X + A (X + A (X + ...)), a block needs three buffers and no layer is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from recbole_kd.ops.kernels.lanes import fma, load, spread, store

WIDTH = 32
"""Columns of a block; a buffer is the flat memory of float32 ``[n, WIDTH]``."""


@njit(nogil=True, cache=True)
def copy_block(source: Any, source_at: Any, target: Any, target_at: Any, width: Any, added: Any) -> None:
    """Copy ``width`` <= WIDTH numbers between flat memories, or add them to the target.

    A full block is copied in registers: the processor then waits for the lines of many rows at a time.
    """
    if width == WIDTH:
        first, second = load(source, source_at, 16), load(source, source_at + 16, 16)
        if added:
            one = spread(np.float32(1), 16)
            first = fma(one, load(target, target_at, 16), first)
            second = fma(one, load(target, target_at + 16, 16), second)
        store(target, target_at, first)
        store(target, target_at + 16, second)
    else:
        for c in range(width):
            target[target_at + c] = source[source_at + c] + (target[target_at + c] if added else np.float32(0))


@njit(nogil=True, cache=True)
def take(table: Any, first: Any, buffer: Any, row: Any) -> None:
    """Copy a block of columns of a table, from column ``first`` on, to a buffer, from its row ``row`` on."""
    flat, d = table.ravel(), table.shape[1]
    width = min(WIDTH, d - first)
    for i in range(len(table)):
        copy_block(flat, i * d + first, buffer, (row + i) * WIDTH, width, False)


@njit(nogil=True, cache=True)
def give(buffer: Any, row: Any, table: Any, first: Any) -> None:
    """Copy a buffer's rows from ``row`` on to a block of columns of a table."""
    flat, d = table.ravel(), table.shape[1]
    width = min(WIDTH, d - first)
    for i in range(len(table)):
        copy_block(buffer, (row + i) * WIDTH, flat, i * d + first, width, False)


@njit(nogil=True, cache=True)
def multiply(starts: Any, columns: Any, values: Any, rows: Any, vectors: Any, added: Any, out: Any) -> None:
    """Write ``added + A vectors`` at some rows.

    Args:
        starts, columns, values: A in CSR, int64 ``[n + 1]``, int32 and float32 ``[entries]``.
        rows: int64, the rows to compute.
        vectors, added, out: buffers.
    """
    for i in range(len(rows)):
        row = rows[i]
        at = row * WIDTH
        first, second = load(added, at, 16), load(added, at + 16, 16)
        for entry in range(starts[row], starts[row + 1]):
            value, other = spread(values[entry], 16), np.int64(columns[entry]) * WIDTH
            first = fma(value, load(vectors, other, 16), first)
            second = fma(value, load(vectors, other + 16, 16), second)
        store(out, at, first)
        store(out, at + 16, second)


@njit(nogil=True, cache=True)
def multiply_sparse(starts: Any, columns: Any, values: Any, rows: Any, vectors: Any, out: Any) -> None:
    """Write ``vectors + A vectors`` of vectors that are 0 except in ``rows``.

    The arguments are those of :func:`multiply`.
    """
    out[:] = 0
    for i in range(len(rows)):
        row = rows[i]
        at = row * WIDTH
        first, second = load(vectors, at, 16), load(vectors, at + 16, 16)
        one = spread(np.float32(1), 16)
        store(out, at, fma(one, first, load(out, at, 16)))
        store(out, at + 16, fma(one, second, load(out, at + 16, 16)))
        for entry in range(starts[row], starts[row + 1]):
            value, other = spread(values[entry], 16), np.int64(columns[entry]) * WIDTH
            store(out, other, fma(value, first, load(out, other, 16)))
            store(out, other + 16, fma(value, second, load(out, other + 16, 16)))


@njit(nogil=True, cache=True)
def mean_at(
    starts: Any, columns: Any, values: Any, every: Any, rows: Any, upper: Any, lower: Any, first: Any, n_layers: Any,
    buffers: Any, means: Any, own: Any,
) -> None:  # fmt: skip
    """Write a block of columns of the mean over layers 0 to ``n_layers``, and of layer 0, at some rows.

    Args:
        starts, columns, values: A in CSR, see :func:`multiply`.
        every: int64 ``[n]``, 0 to n - 1. rows: int64 ``[m]``.
        upper, lower: float32 ``[n1, d]`` and ``[n2, d]``, the vectors of the first n1 rows and of the others.
        first: first column of the block. n_layers: at least 1.
        buffers: float32 ``[3, n * WIDTH]``, scratch memory.
        means, own: float32 ``[m, d]``.
    """
    layer_0, current, following = buffers[0], buffers[1], buffers[2]
    take(upper, first, layer_0, 0)
    take(lower, first, layer_0, len(upper))
    multiply(starts, columns, values, rows if n_layers == 1 else every, layer_0, layer_0, current)
    for layer in range(2, n_layers + 1):
        multiply(starts, columns, values, rows if layer == n_layers else every, current, layer_0, following)
        current, following = following, current
    factor, d = np.float32(1 / (n_layers + 1)), means.shape[1]
    flat_means, flat_own, width = means.ravel(), own.ravel(), min(WIDTH, d - first)
    for i in range(len(rows)):
        at = rows[i] * WIDTH
        for c in range(WIDTH):
            current[at + c] *= factor
        copy_block(current, at, flat_means, i * d + first, width, False)
        copy_block(layer_0, at, flat_own, i * d + first, width, False)


@njit(nogil=True, cache=True)
def gradient_of_mean(
    starts: Any, columns: Any, values: Any, every: Any, rows: Any, d_means: Any, d_own: Any, first: Any, n_layers: Any,
    buffers: Any, d_upper: Any, d_lower: Any,
) -> None:  # fmt: skip
    """Write a block of columns of the gradients of :func:`mean_at`.

    A is symmetric, so the same operator is applied to the gradients.

    Args:
        rows: int64 ``[m]``, without repetitions.
        d_means, d_own: float32 ``[m, d]``, incoming. d_upper, d_lower: float32, of the tables' shapes, outgoing.
        buffers: as in :func:`mean_at`; the first holds zeros, also afterwards.
    """
    incoming, current, following = buffers[0], buffers[1], buffers[2]
    factor, d = np.float32(1 / (n_layers + 1)), d_means.shape[1]
    flat_means, flat_own, width = d_means.ravel(), d_own.ravel(), min(WIDTH, d - first)
    for i in range(len(rows)):
        at = rows[i] * WIDTH
        copy_block(flat_means, i * d + first, incoming, at, width, False)
        for c in range(WIDTH):
            incoming[at + c] *= factor
    multiply_sparse(starts, columns, values, rows, incoming, current)
    for _ in range(n_layers - 1):
        multiply(starts, columns, values, every, current, incoming, following)
        current, following = following, current
    for i in range(len(rows)):
        at = rows[i] * WIDTH
        copy_block(flat_own, i * d + first, current, at, width, True)
        incoming[at : at + WIDTH] = 0
    give(current, 0, d_upper, first)
    give(current, len(d_upper), d_lower, first)
