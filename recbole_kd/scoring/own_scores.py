"""Scores by a RecBole model's own ``full_sort_predict`` and ``predict``.

They serve models whose score is not a dot product.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from torch import Tensor

from recbole_kd.data.histories.history_rows import Rows
from recbole_kd.scoring.frozen import forget_cached_scores

PAIRS_PER_CALL = 2**18
"""(query, item) rows in one predict call of a model without full_sort_predict."""


class OwnScores:
    """A model's scores as RecBole computes them, float32.

    Args:
        rows: the histories that are a sequential model's queries; None for a general model.
    """

    def __init__(self, model: Any, rows: Rows | None) -> None:
        self.model, self.rows, self.n_items = model, rows, int(model.n_items)

    @property
    def ranks_whole_catalogue(self) -> bool:
        """Whether the model has its own ``full_sort_predict``."""
        return type(self.model).full_sort_predict is not GeneralRecommender.full_sort_predict

    def interaction(self, queries: Tensor) -> Interaction:
        """Return the queries in the model's input form: int64 ``[B]`` -> B rows."""
        if self.rows is None:
            return Interaction({self.model.USER_ID: queries})
        return self.rows.interaction(queries).to(queries.device)

    def full(self, queries: Tensor, keep_tables: bool) -> Tensor:
        """Return the scores at all items: int64 ``[B]`` -> float ``[B, n_items]``.

        Args:
            keep_tables: let a graph model keep its propagated tables for the next call.
        """
        if not self.ranks_whole_catalogue:
            return self._full_by_pairs(queries)
        if not keep_tables:
            forget_cached_scores(self.model)  # of an evaluation: they are stale, and constants
        scores = self.model.full_sort_predict(self.interaction(queries))
        if not keep_tables:
            forget_cached_scores(self.model)
        return torch.as_tensor(scores, dtype=torch.float32, device=queries.device).view(len(queries), self.n_items)

    def pairs(self, queries: Tensor, items: Tensor) -> Tensor:
        """Return the scores of pairs: int64 ``[P]``, int64 ``[P]`` -> float ``[P]``."""
        rows = self.interaction(queries)
        rows.update(Interaction({self.model.ITEM_ID: items}))
        return torch.as_tensor(self.model.predict(rows), dtype=torch.float32, device=queries.device)

    def _full_by_pairs(self, queries: Tensor) -> Tensor:
        n = self.n_items
        every = torch.arange(n, device=queries.device)
        step = max(1, PAIRS_PER_CALL // n)
        return torch.cat(
            [self.pairs(q.repeat_interleave(n), every.repeat(len(q))).view(len(q), -1) for q in queries.split(step)]
        )
