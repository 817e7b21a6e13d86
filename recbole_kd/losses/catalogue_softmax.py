"""Softmax loss over all items with one target a row, in blocks of rows. No RecBole import."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from recbole_kd.losses.unlisted_logsumexp import within_safe_bits
from recbole_kd.ops import compiled, compiled_catalogue
from recbole_kd.ops.topk import blocks

CPU_BLOCK_BYTES = 4 * 2**20
"""Memory budget of one block of score rows, in bytes: the block and its gradient stay in the cache."""


def catalogue_softmax(queries: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    r"""Return the mean of :math:`\log\sum_j e^{q \cdot v_j} - q \cdot v_{target}` over rows.

    It equals ``cross_entropy(queries @ items.T, targets)`` up to rounding. The scores exist for one block of rows at a
    time. The gradient of a block is computed together with its loss, and only its two sums are kept for the backward
    pass. The compiled kernels of the extra ``fast`` serve finite float32 scores on a CPU, one pass over 32 rows at a
    time those of narrow and not too long vectors; torch serves all others.

    Args:
        queries: float ``[B, d]``. items: float ``[I, d]``. targets: int64 ``[B]``, in [0, I).

    Returns:
        float ``[]``, at least float32, differentiable once in queries and items. NaN if there is no row.
    """
    wide = torch.promote_types(queries.dtype, torch.float32)
    result: Tensor = _CatalogueSoftmax.apply(queries.to(wide), items.to(wide), targets)
    return result


class _CatalogueSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(device_type=queries.device.type, enabled=False):
            found = _in_one_pass(queries, items, targets) or _in_blocks(queries, items, targets)
        total, d_queries, d_items = found
        ctx.save_for_backward(d_queries.div_(len(queries)), d_items.div_(max(1, len(queries))))
        return total / len(queries)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        d_queries, d_items = ctx.saved_tensors
        return grad * d_queries, grad * d_items, None


def _in_one_pass(queries: Tensor, items: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return :func:`_in_blocks` from one compiled pass, or None where it does not apply."""
    valid = len(targets) > 0 and queries.device.type == "cpu" and within_safe_bits(queries, items)
    if not valid or not 0 <= int(targets.min()) <= int(targets.max()) < len(items):  # torch says what is wrong
        return None
    found = compiled_catalogue.target_cross_entropy(queries, items, targets)
    return None if found is None else (found[0].sum(), found[1], found[2])


def _in_blocks(queries: Tensor, items: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of the losses, ``[]``, and its gradients in queries and items."""
    total, d_queries, d_items = queries.new_zeros(()), torch.empty_like(queries), torch.zeros_like(items)
    for rows in blocks(len(queries), len(items), queries.device, CPU_BLOCK_BYTES):
        loss, slopes = _loss_and_slopes(queries[rows] @ items.T, targets[rows])
        total += loss
        torch.mm(slopes, items, out=d_queries[rows])
        d_items.addmm_(slopes.T, queries[rows])
    return total, d_queries, d_items


def _loss_and_slopes(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the losses of some rows, ``[]``, and its gradient in the scores, ``[b, I]``.

    The scores may be overwritten.
    """
    found = compiled.softmax_sums(scores)
    if found is not None:
        tops, sums = found
        of_targets = scores.gather(1, targets.unsqueeze(1)).squeeze(1)
        return (sums.log() - (of_targets - tops)).sum(), compiled.softmax_slopes(scores, tops, sums, targets, 1.0)
    loss = cross_entropy(scores, targets, reduction="sum")
    slopes = scores.softmax(1)
    slopes[torch.arange(len(targets), device=targets.device), targets] -= 1
    return loss, slopes
