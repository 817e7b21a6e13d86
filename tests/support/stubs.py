"""Stand-ins for a trained model: scores from a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import top_k_in_blocks
from recbole_kd.teacher.stores.dense import DenseScores
from recbole_kd.training.teacher_loader import TeacherAwareLoader


class TableScorer:
    """The Scorer of a "model" whose parameters are its scores ``[n_queries, n_items]``, pad row and column included."""

    def __init__(self, scores: Tensor) -> None:
        self.table = nn.Parameter(scores.clone())
        self.n_queries, self.n_items = scores.shape
        self.device = torch.device("cpu")
        self.has_vectors = False
        self.sharing = None

    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        return self.table[queries].gather(1, items)

    def full(self, queries: Tensor) -> Tensor:
        return self.table[queries]

    def known_rows(self, queries: Tensor) -> None:
        return None

    def catalogue(self) -> Callable[[Tensor], Tensor]:
        return self.full

    @torch.no_grad()
    def top_k(self, queries: Tensor, k: int, exclude: Ragged | None = None) -> tuple[Tensor, Tensor]:
        return top_k_in_blocks(lambda q: self.table[q].clone(), queries, self.n_items, k, exclude)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        with torch.no_grad():
            yield


def padded(scores: Tensor) -> Tensor:
    """Scores with RecBole's pad user and pad item in front; the pad's scores are high, so that a leak shows."""
    return nn.functional.pad(scores, (1, 0, 1, 0), value=9.0)


def dense(scores: Tensor) -> DenseScores:
    return DenseScores(padded(scores), {"model": "Table"})


def batch_for(distiller: Distiller, users: list[int]) -> DistillBatch:
    """What the teacher-aware loader makes of a batch with these (padded) users."""
    loader: Any = SimpleNamespace(_dataset=SimpleNamespace(uid_field="user_id"), times=1)
    aware = TeacherAwareLoader(loader, distiller, distiller.teacher_scores)
    aware.ask_teacher()
    return aware.batch_of(torch.tensor(users))


def no_train_items(n_queries: int) -> Ragged:
    return Ragged(torch.zeros(n_queries + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
