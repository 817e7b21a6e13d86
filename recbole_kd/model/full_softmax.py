"""Softmax loss of positions over all items but the pad."""

from __future__ import annotations

from torch import Tensor

from recbole_kd.losses.catalogue_softmax import catalogue_softmax


def full_softmax(queries: Tensor, items: Tensor, positives: Tensor, temperature: float) -> Tensor:
    r"""Return the softmax loss over all items but the pad, a mean over positions.

    A position's loss is :math:`-\log \frac{e^{s_+/t}}{\sum_{j \geq 1} e^{s_j/t}}`. The ``[P, I]`` scores of a batch are
    never in memory as a whole.

    Args:
        queries: float ``[P, d]``.
        items: float ``[I, d]``, row 0 the pad.
        positives: int64 ``[P]``, from 1 to I - 1.
        temperature: t.

    Returns:
        float ``[]``, once differentiable in queries and items. Zero if there is no position.
    """
    if len(positives) == 0:
        return (queries.sum() + items.sum()) * 0.0
    return catalogue_softmax(queries / temperature, items[1:], positives - 1)
