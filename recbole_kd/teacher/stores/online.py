"""Online store: the frozen teacher itself, for score matrices that are too large to keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.stores.factors import FactorScores


class OnlineScores(TeacherScores):
    """Scores computed by a trained model, always in evaluation mode and without gradient.

    Args:
        scorer: scorer of the trained teacher. Its parameters must not change any more, because a dot-product teacher is
            encoded once.
    """

    store = "online"

    def __init__(self, scorer: StudentScores, manifest: Mapping[str, Any] | None = None) -> None:
        super().__init__(scorer.n_queries, scorer.n_items, manifest)
        self._scorer = scorer
        self._factors: FactorScores | None = None
        if scorer.has_vectors:
            with scorer.frozen():
                queries, items = scorer.tables()
                self._factors = FactorScores(queries.detach().clone(), items.detach().clone())

    def full(self, queries: Tensor) -> Tensor:
        if self._factors is not None:
            return self._factors.full(queries)
        with self._scorer.frozen():
            return self._scorer.full(queries)

    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        if self._factors is not None:
            return self._factors.at(queries, items)
        with self._scorer.frozen():
            return self._scorer.at(queries, items)

    def embeddings(self) -> tuple[Tensor, Tensor] | None:
        return None if self._factors is None else self._factors.embeddings()
