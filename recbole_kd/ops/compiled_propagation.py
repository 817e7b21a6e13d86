"""Mean over the layers of a propagation at some rows, for torch tensors on a CPU.

No RecBole import.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_kd.ops.compiled import kernels
from recbole_kd.ops.threads import in_halves, n_threads


@cache
def propagation_kernels() -> Any:
    """Return the module of kernels; call only if :func:`recbole_kd.ops.compiled.kernels` is not None."""
    from recbole_kd.ops.kernels import propagation

    return propagation


class Propagation:
    r"""The mean :math:`\frac{1}{L+1} \sum_{k=0}^{L} A^k X` over the layers of a propagation, at some rows.

    Only the last product of the forward pass and the first of the backward pass are restricted to these rows: after
    two steps nearly all rows take part. No layer is kept for the backward pass.

    Args:
        matrix: A, symmetric CSR ``[n, n]`` of float32.
        n_layers: L, at least 1.
    """

    def __init__(self, matrix: sp.csr_matrix, n_layers: int) -> None:
        self.n_layers = n_layers
        self._graph = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data
        self._every = np.arange(matrix.shape[0])
        self._buffers: np.ndarray | None = None

    def at(self, upper: Tensor, lower: Tensor, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the means, and the rows of X themselves, differentiable once in X.

        Args:
            upper, lower: float32 ``[n1, d]`` and ``[n2, d]``; X is the one above the other.
            rows: int64 ``[m]``, distinct.

        Returns:
            float32 ``[m, d]`` each; None if the kernel does not apply.
        """
        if kernels() is None or any(
            table.device.type != "cpu" or table.dtype != torch.float32 for table in (upper, lower)
        ):
            return None
        means, own = _MeanAt.apply(upper, lower, rows, self)
        return means, own

    def means(self, upper: Tensor, lower: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return :meth:`at` without a gradient."""
        means, own = (upper.new_empty(len(rows), upper.shape[1]) for _ in range(2))
        tables = [table.detach().contiguous().numpy() for table in (rows, upper, lower)]

        def work(first: int, buffers: np.ndarray) -> None:
            propagation_kernels().mean_at(
                *self._graph, self._every, *tables, first, self.n_layers, buffers, means.numpy(), own.numpy()
            )

        self._in_blocks(work, upper.shape[1])
        return means, own

    def gradients(self, rows: Tensor, d_means: Tensor, d_own: Tensor, n_upper: int) -> tuple[Tensor, Tensor]:
        """Return the gradients in both tables, float32 ``[n1, d]`` and ``[n2, d]``."""
        sizes = n_upper, len(self._every) - n_upper
        found = [d_means.new_empty(n, d_means.shape[1]) for n in sizes]
        tables = [table.detach().contiguous().numpy() for table in (rows, d_means, d_own)]

        def work(first: int, buffers: np.ndarray) -> None:
            propagation_kernels().gradient_of_mean(
                *self._graph, self._every, *tables, first, self.n_layers, buffers, *(table.numpy() for table in found)
            )

        self._in_blocks(work, d_means.shape[1])
        return found[0], found[1]

    def _in_blocks(self, work: Callable[[int, np.ndarray], None], width: int) -> None:
        """Call ``work`` for each block of columns, on two threads with buffers of their own."""
        size = propagation_kernels().WIDTH
        if self._buffers is None:  # used again: fresh pages of this size cost as much time as a product
            self._buffers = np.empty((2, 3, len(self._every) * size), np.float32)
        buffers = self._buffers
        buffers[:, 0] = 0

        def half(blocks: slice) -> None:
            for block in range(blocks.start, blocks.stop):
                work(block * size, buffers[int(blocks.start > 0)])

        in_halves(half, -(-width // size), n_threads() > 1)


class _MeanAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, upper: Tensor, lower: Tensor, rows: Tensor, propagation: Propagation) -> Any:
        ctx.rows, ctx.propagation, ctx.n_upper = rows, propagation, len(upper)
        return propagation.means(upper, lower, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_means: Tensor, d_own: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return *ctx.propagation.gradients(ctx.rows, d_means, d_own, ctx.n_upper), None, None
