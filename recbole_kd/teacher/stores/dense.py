"""Dense store: a memory-mapped score matrix, for scores that are not dot products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recbole_kd.config.argument_kinds import KEYS, takes
from recbole_kd.teacher.base import TABLE, TeacherScores


class DenseScores(TeacherScores):
    """Scores from a matrix on disk, of which only the requested rows are read.

    Args:
        scores: ``[n_queries, n_items]``, of any float type, usually from a memory-mapped file; answers are float32.

    Raises:
        ArgumentError: the scores are not a table of floating-point numbers.
    """

    store = "dense"

    @takes(scores=TABLE, manifest=KEYS.or_none())
    def __init__(self, scores: Tensor, manifest: Mapping[str, Any] | None = None) -> None:
        super().__init__(scores.shape[0], scores.shape[1], manifest)
        self._scores = scores

    @torch.no_grad()
    def full(self, queries: Tensor) -> Tensor:
        return self._scores.index_select(0, queries.to(self._scores.device)).to(queries.device, torch.float32)

    @torch.no_grad()
    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        rows = queries.to(self._scores.device).unsqueeze(1)
        return self._scores[rows, items.to(self._scores.device)].to(queries.device, torch.float32)
