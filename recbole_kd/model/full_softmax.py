"""Softmax loss of positions over all items, computed in blocks of positions."""

from __future__ import annotations

from torch import Tensor

from recbole_kd.acceleration.fused_softmax import softmax_loss
from recbole_kd.model.blocked_loss import blocked_mean

SCORES_PER_BLOCK = 2**21


def full_softmax(
    queries: Tensor, items: Tensor, positives: Tensor, temperature: float, scores_per_block: int = SCORES_PER_BLOCK
) -> Tensor:
    r"""Return the softmax loss over all items but the pad, a mean over positions.

    A position's loss is :math:`-\log \frac{e^{s_+/t}}{\sum_{j \geq 1} e^{s_j/t}}`. The ``[P, I]`` scores of a batch are
    never in memory as a whole.

    Args:
        queries: float ``[P, d]``.
        items: float ``[I, d]``, row 0 the pad.
        positives: int64 ``[P]``, from 1 to I - 1.
        temperature: t.
        scores_per_block: number of scores in memory at a time.

    Returns:
        float ``[]``, once differentiable in queries and items. Zero if there is no position.
    """

    def block_loss(rows: slice, block: Tensor, table: Tensor) -> Tensor:
        return softmax_loss((block / temperature) @ table[1:].T, positives[rows] - 1) * len(block)

    return blocked_mean(queries, items, block_loss, max(1, scores_per_block // len(items)))
