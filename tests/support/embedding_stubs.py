"""Stand-ins for models that are nothing but vectors, and the published networks as ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recbole_kd.distiller.base import DistillBatch, Distiller, ItemSet
from recbole_kd.ops.gathered_dot import gathered_dot
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import top_k_in_blocks
from recbole_kd.teacher.stores.factors import FactorScores
from tests.support import paths


def reference(name: str) -> list[dict[str, Any]]:
    """Cases of a published class."""
    return json.loads((paths.REFERENCE / f"{name}.json").read_text())["cases"]


class VectorScorer:
    """The Scorer of a "model" whose parameters are its tables, pad rows included; scores are their dot products."""

    has_vectors = True
    sharing = None

    def __init__(self, users: Tensor, items: Tensor) -> None:
        self.users, self.items = nn.Parameter(users.clone()), nn.Parameter(items.clone())
        self.n_queries, self.n_items = len(users), len(items)
        self.device = torch.device("cpu")

    def query_vectors(self, queries: Tensor) -> Tensor:
        return self.users[queries]

    def item_table(self) -> Tensor:
        return self.items

    def tables(self) -> tuple[Tensor, Tensor]:
        return self.users, self.items

    def ego_tables(self) -> tuple[Tensor, Tensor]:
        return self.users, self.items

    def known_rows(self, queries: Tensor) -> None:
        return None

    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        return gathered_dot(self.users[queries], self.items, items)

    @torch.no_grad()
    def top_k(self, queries: Tensor, k: int, exclude: Ragged | None = None) -> tuple[Tensor, Tensor]:
        return top_k_in_blocks(lambda q: self.users[q] @ self.items.T, queries, self.n_items, k, exclude)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        with torch.no_grad():
            yield


def with_pad(table: Any) -> Tensor:
    """A table with RecBole's pad row in front, whose values are high, so that a leak shows."""
    return nn.functional.pad(torch.as_tensor(table, dtype=torch.float32), (0, 0, 1, 0), value=9.0)


def vector_pair(case: dict[str, Any]) -> tuple[VectorScorer, FactorScores]:
    """Student and teacher of a reference case."""
    student = VectorScorer(with_pad(case["su"]), with_pad(case["si"]))
    return student, FactorScores(with_pad(case["tu"]), with_pad(case["ti"]), {"model": "Vectors"})


def random_pair(
    n_users: int = 12, n_items: int = 20, width: int = 4, teacher_width: int = 7, scale: float = 1.0, seed: int = 0
) -> tuple[VectorScorer, FactorScores]:
    """Random student and teacher."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((n_users, width), (n_items, width), (n_users, teacher_width), (n_items, teacher_width))
    tables = [with_pad(torch.randn(size, generator=generator) * scale) for size in sizes]
    return VectorScorer(*tables[:2]), FactorScores(*tables[2:], {"model": "Vectors"})


def batch_of_rows(users: Any, positives: Any, negatives: Any, distiller: Distiller | None = None) -> DistillBatch:
    """The distillation batch of (user, positive, negative) rows, ids with the pad.

    With a distiller's sets, no scores in them.
    """
    queries, counts = torch.as_tensor(users).unique(return_counts=True)
    item_sets = distiller.item_sets if distiller is not None else {}
    sets = {name: ItemSet(ids, torch.empty(len(ids), 0), queries) for name, ids in item_sets.items()}
    return DistillBatch(queries, counts.float(), sets, torch.as_tensor(positives), torch.as_tensor(negatives))


def batch_of_case(case: dict[str, Any], distiller: Distiller | None = None) -> DistillBatch:
    return batch_of_rows(*(torch.tensor(case[name]) + 1 for name in ("users", "positives", "negatives")), distiller)


@torch.no_grad()
def load_networks(module: nn.Module, given: dict[str, Any]) -> None:
    """Put a published side's networks into ours."""
    for name, key in (("weight_1", "w1"), ("bias_1", "b1"), ("weight_2", "w2"), ("bias_2", "b2")):
        getattr(module, name).copy_(torch.tensor(given[key]))
    if "choice" in given:
        module.choice_weight.copy_(torch.tensor(given["choice"]["w"]))  # type: ignore[operator, union-attr]
        module.choice_bias.copy_(torch.tensor(given["choice"]["b"]))  # type: ignore[operator, union-attr]


def give_noise(distiller: Any, case: dict[str, Any]) -> None:
    """The published run's noise, by entity."""
    tables = {side: with_pad(case[f"noise_{side[:-1]}"]) for side in ("users", "items")}
    distiller.noise = lambda side, ids: tables[side][ids]


def assert_equals_published(
    distiller: Any, student: VectorScorer, case: dict[str, Any], *, gradient: bool = True
) -> None:
    """The loss on the case's batch, in the published sum, and its gradient in the student's tables."""
    distiller.reduction = "sum"
    loss = distiller(batch_of_case(case, distiller))
    assert float(loss.detach()) == pytest.approx(case["loss"], rel=1e-5)
    if gradient:
        loss.backward()
        for table, name in ((student.users, "gu"), (student.items, "gi")):
            expected = torch.tensor(case[name])
            assert table.grad is not None and not table.grad[0].any()
            torch.testing.assert_close(table.grad[1:], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
