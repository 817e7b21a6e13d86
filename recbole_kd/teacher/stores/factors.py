"""Factor store: query and item vectors, exact for teachers whose score is a dot product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recbole_kd.config.argument_kinds import KEYS, takes
from recbole_kd.errors import TeacherError
from recbole_kd.ops.gathered_dot import gathered_dot
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import DotProducts, top_k_in_blocks
from recbole_kd.scoring.candidate_index import CandidateIndex
from recbole_kd.teacher.base import TABLE, TeacherScores


class FactorScores(TeacherScores):
    """Scores as dot products of stored vectors, ``U d + I d`` numbers instead of ``U I``.

    Args:
        query_vectors: ``[n_queries, d]``, of any float type; answers are float32.
        item_vectors: ``[n_items, d]``, of any float type.

    Raises:
        ArgumentError: the vectors are not tables of floating-point numbers.
        TeacherError: the tables do not fit each other.
    """

    store = "factors"

    @takes(query_vectors=TABLE, item_vectors=TABLE, manifest=KEYS.or_none())
    def __init__(self, query_vectors: Tensor, item_vectors: Tensor, manifest: Mapping[str, Any] | None = None) -> None:
        super().__init__(len(query_vectors), len(item_vectors), manifest)
        widths = query_vectors.shape[1], item_vectors.shape[1]
        if widths[0] != widths[1] or not widths[0]:
            raise TeacherError(
                f"The vectors of the teacher {self.name} are {widths[0]} wide for queries and {widths[1]} wide for "
                "items: give tables of one width, at least 1"
            )
        self._queries = query_vectors
        self._items = item_vectors
        self.index: CandidateIndex | None = None
        """Ranks approximately in a very large catalogue."""

    @property
    def indexes(self) -> bool:
        return self.index is not None

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._items.device != device or self._items.dtype != torch.float32:
            self._queries = self._queries.to(device, torch.float32)
            self._items = self._items.to(device, torch.float32)
        return self._queries, self._items

    @torch.no_grad()
    def full(self, queries: Tensor) -> Tensor:
        query_vectors, item_vectors = self._on(queries.device)
        return query_vectors[queries] @ item_vectors.T

    @torch.no_grad()
    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        query_vectors, item_vectors = self._on(queries.device)
        return gathered_dot(query_vectors[queries], item_vectors, items)

    @torch.no_grad()
    def top_k(self, queries: Tensor, k: int, exclude: Ragged | None = None) -> tuple[Tensor, Tensor]:
        tables = self._on(queries.device)
        if self.index is None:
            return top_k_in_blocks(DotProducts(*tables), queries, self.n_items, k, exclude)
        found = self.index.top_k(*tables, queries, k, exclude)
        self.index.close()
        return found

    def embeddings(self) -> tuple[Tensor, Tensor]:
        query_vectors, item_vectors = self._on(self._items.device)
        return query_vectors.detach(), item_vectors.detach()
