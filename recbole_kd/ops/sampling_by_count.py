"""Sampling from all items with integer weights: draw a level, then one of its items.

No RecBole import.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.ops import compiled


def draw_by_count(counts: Tensor, n: int, tau: float, n_levels: int, generator: torch.Generator) -> Tensor:
    r"""Draw n distinct columns a row with probability proportional to :math:`e^{count/\tau}`.

    The distribution equals Gumbel top-n (:func:`recbole_kd.ops.sampling.sample_without_replacement`), with two random
    numbers a draw instead of one a column. Columns of one count are interchangeable: the level (the count) is drawn
    by the weight left in each level, then one of its columns uniformly.

    Args:
        counts: int32 ``[B, m]``; negative means never.
        n: columns a row. tau: > 0. n_levels: more than the highest count.
        generator: source of randomness, on the tensor's device.

    Returns:
        int64 ``[B, n]`` column indices in the order of drawing, -1 once nothing is left.
    """
    uniform = torch.rand(len(counts), n, 2, dtype=torch.float64, generator=generator, device=counts.device)
    discounts = torch.exp(-torch.arange(n_levels, dtype=torch.float64, device=counts.device) / tau)
    found = compiled.draw_by_count(counts, uniform, discounts)
    return _plain_draw(counts, uniform, discounts) if found is None else found


def _plain_draw(counts: Tensor, uniform: Tensor, discounts: Tensor) -> Tensor:
    order = counts.argsort(
        dim=1, stable=True
    )  # columns of the same count keep their order; columns that are never drawn come first
    in_level = counts.new_zeros(len(counts), len(discounts) + 1, dtype=torch.int64)
    in_level.scatter_add_(1, (counts.clamp(min=-1) + 1).long(), torch.ones_like(counts, dtype=torch.int64))
    starts, left = in_level.cumsum(1)[:, :-1], in_level[:, 1:]
    levels, places, moved, chosen = (
        counts.new_full((len(counts), uniform.shape[1]), -1, dtype=torch.int64) for _ in range(4)
    )
    for drawn in range(uniform.shape[1]):
        level, some = _draw_level(left, uniform[:, drawn, 0], discounts)
        room = left.gather(1, level)
        place = torch.minimum((uniform[:, drawn, 1:] * room).long(), room - 1)
        known = levels[:, :drawn], places[:, :drawn], moved[:, :drawn]
        chosen[:, drawn] = (
            (starts.gather(1, level) + _place_now(*known, level, place)).squeeze(1).masked_fill(~some, -1)
        )
        moved[:, drawn] = _place_now(*known, level, room - 1).squeeze(1)
        levels[:, drawn], places[:, drawn] = level.squeeze(1), place.squeeze(1)
        left.scatter_add_(1, level, -some.long().unsqueeze(1))
    return order.gather(1, chosen.clamp(min=0)).masked_fill(chosen < 0, -1)


def _draw_level(left: Tensor, uniform: Tensor, discounts: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a level of each row by the weight left in it.

    Returns:
        level, int64 ``[B, 1]``, and whether anything was left, bool ``[B]``.
    """
    falling = left.flip(1)  # from the highest level down
    gap = (falling > 0).int().argmax(1, keepdim=True)  # empty levels above the highest one that is not empty
    number = torch.arange(len(discounts), device=left.device) - gap
    weights = (falling * discounts[number.clamp(min=0)]).masked_fill_(number < 0, 0.0)
    sums = weights.cumsum(1)
    passed = (sums <= uniform.unsqueeze(1) * sums[:, -1:]).sum(1, keepdim=True).clamp(max=len(discounts) - 1)
    return len(discounts) - 1 - passed, (left > 0).any(1)


def _place_now(levels: Tensor, places: Tensor, moved: Tensor, level: Tensor, place: Tensor) -> Tensor:
    """Return the index of the item at a position of a level, int64 ``[B, 1]``.

    Each earlier draw, ``[B, t]``, moved the last item of its level to the position that it emptied.
    """
    if levels.shape[1] == 0:
        return place
    same = (levels == level) & (places == place)
    latest = (same * torch.arange(1, same.shape[1] + 1, device=same.device)).amax(1, keepdim=True)
    return torch.where(latest > 0, moved.gather(1, (latest - 1).clamp(min=0)), place)
