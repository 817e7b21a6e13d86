"""Losses on dot products of listed items, with both gradients from one compiled pass.

No RecBole import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from recbole_kd.ops import compiled, compiled_lists
from recbole_kd.ops.threads import in_halves, n_threads

PAIRS_PER_THREAD = 2**15
"""A second thread pays from twice this many query-item pairs."""

Kernel = Callable[[slice, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]


def applies(vectors: Tensor, items: Tensor) -> bool:
    """Return whether kernels can compute losses of these vectors."""
    on_cpu = vectors.device.type == items.device.type == "cpu"
    return on_cpu and vectors.dtype == items.dtype == torch.float32 and compiled.kernels() is not None


def fused_loss(vectors: Tensor, items: Tensor, n_pairs: int, kernel: Kernel) -> Tensor:
    """Return the sum of the rows' losses that a compiled kernel computes together with their gradients.

    Call it only if :func:`applies`.

    Args:
        vectors: float32 ``[B, d]``, of the queries. items: float32 ``[n_items, d]``.
        n_pairs: the number of dot products, which decides whether a second thread pays.
        kernel: called for each of two fixed halves as ``kernel(rows, vectors[rows], items, losses[rows],
            d_vectors[rows], d_items)``: it writes losses, float32 ``[b]``, and the gradients in the vectors, and adds
            those in the items. Vectors have at least the kernels' least width.

    Returns:
        float32 ``[]``, differentiable once in vectors and items.
    """
    short = max(0, compiled_lists.least_width() - items.shape[1])
    vectors, items = (pad(table, (0, short)) if short else table for table in (vectors, items))
    result: Tensor = _FusedLoss.apply(vectors.contiguous(), items.contiguous(), n_pairs, kernel)
    return result


class _FusedLoss(torch.autograd.Function):
    """The compiled pass, over two fixed halves of the rows: gradients are summed in one order."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, items: Tensor, n_pairs: int, kernel: Kernel) -> Tensor:
        losses, d_vectors, d_items = torch.empty(len(vectors)), torch.empty_like(vectors), torch.empty_like(items)
        sums = compiled_lists.zero_tables(items)
        table = items.detach().numpy()
        of_rows = [part.detach().numpy() for part in (vectors, losses, d_vectors)]

        def work(half: slice) -> None:
            own, found, d_own = (part[half] for part in of_rows)
            kernel(half, own, table, found, d_own, sums[int(half.start > 0)])

        both = n_threads() > 1 and n_pairs >= 2 * PAIRS_PER_THREAD
        in_halves(work, len(vectors), both)
        compiled_lists.take_sum(*sums, d_items, both)
        ctx.save_for_backward(d_vectors, d_items)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_vectors, d_items = ctx.saved_tensors
        if float(grad) != 1:
            d_vectors, d_items = d_vectors * grad, d_items * grad
        return d_vectors, d_items, None, None
