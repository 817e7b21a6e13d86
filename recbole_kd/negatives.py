"""Uniform sampling of items outside a set of each query, by rejection: never a users x items mask."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 50
"""A place whose draws were refused so often stays empty: that query has nearly nothing left to draw."""


def keys_of(queries: Tensor, items: Tensor, n_items: int) -> Tensor:
    """Sorted keys of (query, item) pairs, two int64 of equal shape -> int64 ``[N]``, for :func:`draw_outside`."""
    return (queries * n_items + items).reshape(-1).sort().values


def draw_outside(queries: Tensor, n: int, n_items: int, outside: Tensor, generator: torch.Generator) -> Tensor:
    """Items drawn uniformly for each query, none of them the pad item or in its set, none twice in a row.

    Args:
        queries: int64 ``[Q]``. n: draws of each. n_items: with the pad. outside: of :func:`keys_of`, what may not be drawn.

    Returns:
        int64 ``[Q, n]``, sorted by id with the empty places (id 0) first: what was drawn twice is kept once.
    """
    device = queries.device
    base = (queries * n_items).unsqueeze(1).expand(-1, n)
    drawn = torch.zeros(len(queries), n, dtype=torch.int64, device=device)
    row, column = torch.ones_like(drawn, dtype=torch.bool).nonzero(as_tuple=True)
    for _ in range(ROUNDS):
        if len(row) == 0 or n_items < 2:
            break
        items = torch.randint(1, n_items, (len(row),), device=device, generator=generator)
        refused = _contains(outside, base[row, column] + items)
        drawn[row, column] = items.masked_fill(refused, 0)
        row, column = row[refused], column[refused]
    drawn = drawn.sort(dim=1).values
    drawn[:, 1:] = drawn[:, 1:].masked_fill(drawn[:, 1:] == drawn[:, :-1], 0)
    return drawn.sort(dim=1).values


def _contains(keys: Tensor, wanted: Tensor) -> Tensor:
    if len(keys) == 0:
        return torch.zeros_like(wanted, dtype=torch.bool)
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return keys[place] == wanted
