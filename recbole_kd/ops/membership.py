"""Row-wise membership of ids in sets of ids. No RecBole import."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.ops import compiled


def is_in(items: Tensor, other: Tensor) -> Tensor:
    """Test row by row whether ``items[b, i]`` is among ``other[b]``.

    Args:
        items: int64 ``[B, n]``, ids from 0. other: int64 ``[B, m]``; negative ids never match. Rows are independent.

    Returns:
        bool ``[B, n]``. Time a row: O(n + m) compiled, else O((n + m) log m) by one sort and one binary search. Memory
        is never ``B x n x m``.
    """
    found = compiled.is_in(items, other)
    if found is not None:
        return found
    if other.shape[1] == 0 or items.shape[1] == 0:
        return torch.zeros_like(items, dtype=torch.bool)
    ordered = other.sort(dim=1).values
    place = torch.searchsorted(ordered, items.contiguous()).clamp_(max=other.shape[1] - 1)
    return ordered.gather(1, place) == items
