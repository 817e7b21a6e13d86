"""A mean loss over rows, computed in blocks that keep only their gradient.

The scores of one block are in memory at a time. The gradient of a block is computed together with its loss, so the
backward pass only scales it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BlockLoss = Callable[[slice, Tensor, Tensor], Tensor]
"""Takes the rows of a block, their queries ``[n, d]`` and the items ``[I, d]``; returns the sum of their losses."""


def blocked_mean(queries: Tensor, items: Tensor, block_loss: BlockLoss, rows_per_block: int) -> Tensor:
    """Return the mean of a loss over the rows of ``queries``.

    Args:
        queries: float ``[P, d]``.
        items: float ``[I, d]``.
        block_loss: see :data:`BlockLoss`; called for the blocks in order.
        rows_per_block: number of rows of a block, at least 1.

    Returns:
        float ``[]``, once differentiable in queries and items. Zero if there is no row.
    """
    if len(queries) == 0:
        return (queries.sum() + items.sum()) * 0.0
    result: Tensor = _BlockedMean.apply(queries, items, block_loss, rows_per_block)
    return result


class _BlockedMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, items: Tensor, block_loss: BlockLoss, rows_per_block: int) -> Tensor:
        wanted, n = any(ctx.needs_input_grad), len(queries)
        d_queries, d_items = torch.empty_like(queries), torch.zeros_like(items)
        total = queries.new_zeros(())
        table = items.detach().requires_grad_(wanted)
        for start in range(0, n, rows_per_block):
            rows = slice(start, min(start + rows_per_block, n))
            with torch.set_grad_enabled(wanted):
                block = queries[rows].detach().requires_grad_(wanted)
                loss = block_loss(rows, block, table)
            if wanted:
                d_queries[rows], more = torch.autograd.grad(loss, (block, table))
                d_items += more
            total += loss.detach()
        ctx.save_for_backward(d_queries.div_(n), d_items.div_(n))
        return total / n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        d_queries, d_items = ctx.saved_tensors
        return grad * d_queries, grad * d_items, None, None
