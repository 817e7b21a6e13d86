"""Scores from a model's own ``full_sort_predict`` and ``predict``, within a memory budget.

For models whose score is not a dot product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recbole_kd.data.histories.history_rows import Rows
from recbole_kd.scoring.frozen import forget_cached_scores
from recbole_kd.scoring.row_costs import RowCost, row_cost

SMALL_CALLS = {"pairs": (16, 272), "queries": (2, 10)}
"""Rows of the two calls that measure what a row costs."""

STEP_BYTES = 2**30
"""Memory budget of a training step for the scores of its batch at all items, in bytes."""

_COSTS: WeakKeyDictionary[Any, dict[str, RowCost]] = WeakKeyDictionary()
"""What a model's rows cost, measured once."""


def catalogue_size(model: Any) -> int:
    """Return the number of items that a model ranks, pad included.

    S3Rec counts its mask token as a further item; it is not ranked.
    """
    return int(model.n_items) - (getattr(model, "mask_token", None) == model.n_items - 1)


def ranks_whole_catalogue(kind: type) -> bool:
    """Return whether a model class has a ``full_sort_predict`` of its own; others score pair by pair."""
    return bool(kind.full_sort_predict is not GeneralRecommender.full_sort_predict)  # type: ignore[attr-defined]


class OwnScores:
    """A model's scores as RecBole computes them, float32.

    A call takes as many rows as fit :data:`recbole_kd.scoring.row_costs.CALL_BYTES`. Under autograd further calls are
    computed again in the backward pass, so that the intermediate tensors of one call at a time are kept.

    Args:
        model: a RecBole recommender.
        rows: the histories that are a sequential model's queries; None for a general model.
        rows_of: gives the rows of some queries as the model takes them, if they are neither users nor of ``rows``.
    """

    def __init__(self, model: Any, rows: Rows | None, rows_of: Callable[[Tensor], Interaction] | None = None) -> None:
        self.model, self.rows, self.n_items = model, rows, catalogue_size(model)
        self._rows_of = rows_of

    @property
    def ranks_whole_catalogue(self) -> bool:
        """Whether the model has a ``full_sort_predict`` of its own."""
        return ranks_whole_catalogue(type(self.model))

    def interaction(self, queries: Tensor) -> Interaction:
        """Return the queries as the model takes them: int64 ``[B]`` -> B rows."""
        if self._rows_of is not None:
            return self._rows_of(queries)
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
            forget_cached_scores(self.model)  # of an evaluation: they are old, and constants
        scores = self._in_calls("queries", self._full_call, queries)
        if not keep_tables:
            forget_cached_scores(self.model)
        return scores.view(len(queries), self.n_items)

    def pairs(self, queries: Tensor, items: Tensor) -> Tensor:
        """Return the scores of pairs: int64 ``[P]``, int64 ``[P]`` -> float ``[P]``."""
        return self._in_calls("pairs", self._pairs_call, queries, items)

    def cost(self, kind: str, queries: Tensor) -> RowCost:
        """Return what a row costs, measured at the first call.

        Args:
            kind: ``pairs``, or ``queries`` of the whole catalogue.
            queries: int64 ``[B]``, some that the model can be asked about.
        """
        known = _COSTS.setdefault(self.model, {})
        if kind not in known:

            def score(n_rows: int) -> Tensor:
                number = torch.arange(n_rows, device=queries.device)
                some = queries[number % len(queries)]
                return self._pairs_call(some, number % self.n_items) if kind == "pairs" else self._full_call(some)

            known[kind] = row_cost(self.model, score, *SMALL_CALLS[kind])
        return known[kind]

    def fits_a_step(self, queries: Tensor, n_rows: int) -> bool:
        """Return whether a step can keep this many rows of scores and their gradient's tensors."""
        if not self.ranks_whole_catalogue:
            return False
        return n_rows <= SMALL_CALLS["queries"][1] or n_rows * self.cost("queries", queries).total <= STEP_BYTES

    def _in_calls(self, kind: str, call: Callable[..., Tensor], *columns: Tensor) -> Tensor:
        """Return the scores of some rows, in as many calls as the budget asks for."""
        n_rows = len(columns[0])
        if n_rows <= SMALL_CALLS[kind][1]:
            return call(*columns)
        size = self.cost(kind, columns[0]).rows_per_call(torch.is_grad_enabled())
        if n_rows <= size:
            return call(*columns)
        parts = zip(*(column.split(size) for column in columns), strict=True)
        if torch.is_grad_enabled():
            return torch.cat([checkpoint(call, *part, use_reentrant=False) for part in parts])
        return torch.cat([call(*part) for part in parts])

    def _full_call(self, queries: Tensor) -> Tensor:
        scores = self.model.full_sort_predict(self.interaction(queries))
        return torch.as_tensor(scores, dtype=torch.float32, device=queries.device).view(len(queries), -1)

    def _pairs_call(self, queries: Tensor, items: Tensor) -> Tensor:
        rows = self.interaction(queries)
        rows.update(Interaction({self.model.ITEM_ID: items}))
        columns = getattr(self.model, "side_columns", None)
        rows = rows if columns is None else columns.join(rows)
        return torch.as_tensor(self.model.predict(rows), dtype=torch.float32, device=queries.device)

    def _full_by_pairs(self, queries: Tensor) -> Tensor:
        every = torch.arange(self.n_items, device=queries.device)
        return self.pairs(queries.repeat_interleave(self.n_items), every.repeat(len(queries))).view(len(queries), -1)


def rows_as_given(rows: Interaction) -> Callable[[Tensor], Interaction]:
    """Return a function that picks rows of a batch by their index, int64 ``[B]``."""
    return lambda index: Interaction({name: column[index] for name, column in rows.interaction.items()})


@contextmanager
def scored_in_calls(model: Any) -> Iterator[None]:
    """Make a model's ``full_sort_predict`` score batches in calls that fit the budget.

    The batches are RecBole's. A model that scores pair by pair has that method too. Scores keep the model's own dtype.
    """
    own, before = model.full_sort_predict, vars(model).get("full_sort_predict")

    def full_sort_predict(rows: Interaction) -> Tensor:
        part_of = rows_as_given(rows)
        scores = OwnScores(model, None, part_of)
        queries = torch.arange(len(rows), device=model.device)
        if not scores.ranks_whole_catalogue:
            return scores.full(queries, keep_tables=True)
        if len(rows) <= SMALL_CALLS["queries"][1]:
            return own(rows)
        model.full_sort_predict = own  # the measured calls
        try:
            size = scores.cost("queries", queries).rows_per_call(differentiable=False)
        finally:
            model.full_sort_predict = full_sort_predict
        if len(rows) <= size:
            return own(rows)
        return torch.cat([torch.as_tensor(own(part_of(some))).view(len(some), -1) for some in queries.split(size)])

    model.full_sort_predict = full_sort_predict
    try:
        yield
    finally:
        if before is None:
            del model.full_sort_predict
        else:
            model.full_sort_predict = before
