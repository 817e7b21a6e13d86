"""What the tests of the methods share: distillers over score tables, and the numbers of published code."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.distiller.base import Distiller
from recbole_kd.distiller.registry import resolve_options
from recbole_kd.ops.ragged import Ragged
from tests.support import paths
from tests.support.stubs import TableScorer, batch_for, dense, no_train_items, padded


def references(name: str) -> list[dict[str, Any]]:
    """The cases of tests/reference/NAME.json."""
    return json.loads((paths.REFERENCE / f"{name}.json").read_text())["cases"]


def started(
    cls: type[Distiller],
    student: Tensor,
    teacher: Tensor,
    train: Ragged | None = None,
    *,
    reduction: str = "sum",
    seed: int = 0,
    epoch: int = 0,
    **options: Any,
) -> tuple[Any, TableScorer]:
    """A distiller over unpadded score matrices, its options checked and an epoch begun."""
    scorer = TableScorer(padded(student))
    resolved = resolve_options(cls, options)
    cls.check(student.shape[0], student.shape[1], resolved)
    distiller = cls(scorer, dense(teacher), seed=seed, **resolved)  # type: ignore[arg-type]
    distiller.reduction = reduction
    distiller.begin_training(no_train_items(scorer.n_queries) if train is None else train)
    distiller.begin_epoch(epoch)
    return distiller, scorer


def of_case(cls: type[Distiller], case: dict[str, Any], **options: Any) -> tuple[Any, TableScorer]:
    """A distiller on the scores, training pairs and options of a published run."""
    student, teacher = torch.tensor(case["student"]), torch.tensor(case["teacher"])
    return started(cls, student, teacher, train_of_pairs(case["train"], len(student)), **{**case["options"], **options})


def train_of_pairs(pairs: list[list[int]], n_users: int) -> Ragged:
    """Training items from (user, item) pairs counted from 0."""
    users, items = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return Ragged.from_pairs(users + 1, items + 1, n_users + 1)


def ids(rows: list[list[int]]) -> Tensor:
    """An item set from lists of items counted from 0, with a pad row in front."""
    table = torch.tensor(rows) + 1
    return torch.cat([table[:1], table])


def loss_of(distiller: Distiller, users: list[int]) -> float:
    return float(distiller(batch_for(distiller, users)).detach())


def loss_of_case(distiller: Distiller, case: dict[str, Any]) -> float:
    return loss_of(distiller, [user + 1 for user in case["batch"]])


def random_scores(n_users: int = 7, n_items: int = 30, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Student's and teacher's scores, correlated."""
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(n_users, n_items, generator=generator) * scale
    return 0.5 * teacher + torch.randn(n_users, n_items, generator=generator) * scale, teacher


def random_train(n_users: int = 7, n_items: int = 30, share: float = 0.2, seed: int = 0) -> Ragged:
    users, items = np.nonzero(np.random.default_rng(seed).random((n_users, n_items)) < share)
    return Ragged.from_pairs(users + 1, items + 1, n_users + 1)


def train_items_of(train: Ragged, query: int) -> set[int]:
    return set(train.items[train.starts[query] : train.starts[query + 1]].tolist())


def naive_listwise(listed: list[float], rest: list[float]) -> float:
    """The list-wise loss of one list by its formula, in float64."""
    total, below = 0.0, torch.tensor(rest, dtype=torch.float64)
    scores = torch.tensor(listed, dtype=torch.float64)
    for place in range(len(listed)):
        total += float(torch.cat([scores[place:], below]).logsumexp(0) - scores[place])
    return total
