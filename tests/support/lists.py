"""Ranked lists for tests, from plain rows."""

from __future__ import annotations

import torch

from recbole_kd.teacher.stores.lists import ListScores


def lists_of(rows: list[list[tuple[int, float]]], n_items: int) -> ListScores:
    """A list store of (item, score) rows; row q is query q, row 0 the pad's."""
    starts = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    items = torch.tensor([item for row in rows for item, _ in row], dtype=torch.int32)
    scores = torch.tensor([score for row in rows for _, score in row], dtype=torch.float32)
    return ListScores(starts, items, scores, n_items, {"model": "Lists"})


def top_of(table: torch.Tensor, k: int, without: tuple[int, ...] = ()) -> ListScores:
    """The k best items of each row of a padded table of scores, but for the queries in ``without``."""
    rows: list[list[tuple[int, float]]] = []
    for query in range(len(table)):
        scores = table[query].clone()
        scores[0] = -torch.inf
        best = scores.argsort(descending=True, stable=True)[:k].tolist()
        rows.append([] if query in without else [(item, float(scores[item])) for item in best])
    return lists_of(rows, table.shape[1])
