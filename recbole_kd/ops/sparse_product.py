"""Product of a symmetric sparse matrix and a dense one, on a CPU. No RecBole import."""

from __future__ import annotations

from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _SymmetricProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, matrix: sp.csr_matrix) -> Tensor:
        ctx.matrix = matrix
        return torch.from_numpy(matrix @ vectors.detach().numpy())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(ctx.matrix @ grad.contiguous().numpy()), None


def symmetric_product(vectors: Tensor, matrix: sp.csr_matrix) -> Tensor:
    """Return ``matrix @ vectors`` for a symmetric CSR matrix, differentiable in the vectors.

    Args:
        vectors: float32 ``[n, d]`` on a CPU. matrix: CSR ``[n, n]``.
    """
    result: Tensor = _SymmetricProduct.apply(vectors, matrix)
    return result
