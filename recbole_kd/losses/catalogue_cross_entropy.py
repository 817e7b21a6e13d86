"""Cross-entropy over all items, for dot-product scores, in blocks of rows.

No RecBole import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_kd.ops import compiled, compiled_catalogue
from recbole_kd.ops.topk import blocks

CPU_BLOCK_BYTES = 2 * 2**20
"""Memory budget of one block of score rows, in bytes: student's and teacher's rows stay in the cache until the
kernel."""


def full_cross_entropy(
    queries: Tensor,
    items: Tensor,
    weights: Tensor,
    teacher: Callable[[slice], Tensor],
    temperature: float = 1.0,
    kept: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    r"""Return :math:`\sum_u w_u L_{CE}(u; I)` (RCE-KD, Eq. 1 with J = I), block by block.

    The memory is that of one block of rows. The gradient, :math:`(softmax(r^S/\tau) - softmax(r^T/\tau))/\tau` in the
    scores, is summed up during the forward pass: only its two sums are kept for the backward pass, and neither model is
    called twice. (Checkpointed blocks call them twice and fragment the allocator's memory.) On a CPU a compiled kernel
    turns the scores of a block into losses and gradients (:func:`recbole_kd.ops.compiled.full_slopes`).

    Args:
        queries: float ``[Q, d]``. items: float ``[I, d]``. weights: float ``[Q]``, constants.
        teacher: rows of ``queries`` -> the teacher's scores, float ``[b, I]``.
        kept: the same scores as a table, float32 ``[U, I]``, with the row of each query, int64 ``[Q]``: they are read
            where they lie, in one compiled pass on a CPU.

    Returns:
        float32 ``[]``, differentiable in queries and items.
    """
    result: Tensor = _FullCrossEntropy.apply(queries.float(), items.float(), weights, teacher, temperature, kept)
    return result


def full_cross_entropy_of_rows(
    scores: Tensor, places: Tensor, weights: Tensor, teacher: Callable[[slice], Tensor], temperature: float = 1.0
) -> Tensor:
    """Return :func:`full_cross_entropy` of score rows that are computed already.

    It needs no matrix product, and memory for one more tensor of the size of the scores: their gradient.

    Args:
        scores: float ``[B, 1 + I]``, the pad item's first. places: int64 ``[Q]``, the row of each query.
        weights: float ``[Q]``, constants. teacher: rows of ``places`` -> the teacher's scores, float ``[b, I]``.

    Returns:
        float32 ``[]``, differentiable in scores.
    """
    result: Tensor = _OfRows.apply(scores, places, weights, teacher, temperature)
    return result


class _OfRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        places: Tensor,
        weights: Tensor,
        teacher: Callable[[slice], Tensor],
        temperature: float,
    ) -> Tensor:
        total, d_scores = torch.zeros((), device=scores.device), torch.zeros_like(scores)
        with torch.autocast(device_type=scores.device.type, enabled=False):
            for rows in blocks(len(places), scores.shape[1] - 1, scores.device, CPU_BLOCK_BYTES):
                some = scores.index_select(0, places[rows])[:, 1:].float() / temperature
                total += _slopes(some, teacher(rows).float(), weights[rows].float(), temperature).sum()
                d_scores[:, 1:].index_add_(0, places[rows], some.to(scores.dtype))
        ctx.save_for_backward(d_scores)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (d_scores,) = ctx.saved_tensors
        return grad * d_scores, None, None, None, None


class _FullCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        items: Tensor,
        weights: Tensor,
        teacher: Callable[[slice], Tensor],
        temperature: float,
        kept: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        if kept is not None:
            found = compiled_catalogue.full_cross_entropy(queries, items, weights, *kept, temperature)
            if found is not None:
                ctx.save_for_backward(*found[1:])
                return found[0].sum()
        total, d_queries, d_items = queries.new_zeros(()), torch.empty_like(queries), torch.zeros_like(items)
        with torch.autocast(device_type=queries.device.type, enabled=False):
            for rows in blocks(len(queries), len(items), queries.device, CPU_BLOCK_BYTES):
                scores = (queries[rows] / temperature) @ items.T
                losses = _slopes(scores, teacher(rows).float(), weights[rows].float(), temperature)
                total += losses.sum()
                torch.mm(scores, items, out=d_queries[rows])
                d_items.addmm_(scores.T, queries[rows])
        ctx.save_for_backward(d_queries, d_items)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        d_queries, d_items = ctx.saved_tensors
        return grad * d_queries, grad * d_items, None, None, None, None


def _slopes(scores: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Return the weighted losses of rows, float ``[b]``, and overwrite ``scores``.

    ``scores`` holds the student's scores over the temperature; it becomes the gradient in the student's dot products.
    """
    losses = compiled.full_slopes(scores, teacher, weights, temperature)
    if losses is None:
        student, target = torch.log_softmax(scores, dim=1), torch.softmax(teacher / temperature, dim=1)
        losses = -weights * (target * student).sum(1)
        scores.copy_(student.exp_().sub_(target).mul_((weights / temperature).unsqueeze(1)))
    return losses
