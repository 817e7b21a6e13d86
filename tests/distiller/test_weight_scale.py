"""kd_weight_scale=rows: each term of the student's own loss brings the KD loss of its query once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from recbole_kd.distiller.base import Distiller
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import TinyData, build_case
from tests.support.stubs import dense

STUDENTS: dict[str, dict[str, Any]] = {
    "MF, sum": {"model": "MF", "loss_reduction": "sum"},
    "MF, mean": {"model": "MF", "loss_reduction": "mean"},
    "BPR, mean": {"model": "BPR"},
    "SASRec, mean": {"model": "SASRec"},
    "HSTU, mean over positions": {"model": "HSTU", "attention_size": 4, "linear_size": 4, "n_negatives": 8},
    "HSTU of users": {"model": "HSTUGeneral", "attention_size": 4, "linear_size": 4, "n_negatives": 8},
}
METHODS: dict[str, dict[str, Any]] = {
    "CE": {"kd_k": 4},
    "RRD": {"kd_k": 3, "kd_n_samples": 4, "kd_candidates": 6},
    "DCD": {"kd_k": 3, "kd_candidates": 6},
}
LAMBDA = 0.5


def of_first_batch(data: TinyData, name: str, kd: str, scale: str) -> tuple[Any, Distiller, float, Any]:
    """Loader, distiller, weighted KD loss and batch of a student's first step."""
    given = dict(STUDENTS[name])
    case = build_case(data, given.pop("model"), train_batch_size=48, **given)
    teacher = dense(torch.rand(case.splits.n_users, case.splits.n_items, generator=torch.Generator().manual_seed(3)))
    asked = {"dataset": data.name, "model": case.config["model"], "kd": kd, "seed": 1, "kd_weight": LAMBDA}
    asked |= {**METHODS[kd], "kd_weight_scale": scale, "loss_reduction": case.config["loss_reduction"]}
    distiller = build_distiller(asked, case.model, teacher, case.loaders.train)
    trainer = KDTrainer(case.config, case.model, distiller)
    trainer._base_loss.negatives_times = getattr(case.loaders.train, "times", 1)
    trainer.prepare(case.loaders.train)
    distiller.begin_epoch(0)
    assert trainer._loader is not None
    trainer._loader.ask_teacher()
    case.model.eval()  # no dropout: the loss of a query is the same in each call
    batch = next(iter(trainer._loader))
    return trainer._loader, distiller, float(trainer._losses(batch)[1].detach()), batch


def loss_of_query(loader: Any, distiller: Distiller, query: int) -> float:
    """The KD loss of one query in one row."""
    batch = loader.batch_of(torch.tensor([query]))
    return float(distiller(replace(batch, weights=torch.ones(1))).detach())


@pytest.mark.parametrize("kd", METHODS)
@pytest.mark.parametrize("name", STUDENTS)
def test_each_term_of_the_base_loss_brings_the_loss_of_its_query(tiny_dataset: TinyData, name: str, kd: str) -> None:
    loader, distiller, found, batch = of_first_batch(tiny_dataset, name, kd, "rows")
    model = distiller.student_scorer.model  # type: ignore[attr-defined]
    rows = batch[loader._query_field]
    terms = model.terms_of_rows(batch) if hasattr(model, "terms_of_rows") else torch.ones(len(rows), dtype=torch.int64)
    real = [(int(query), int(count)) for query, count in zip(rows, terms, strict=True) if query]
    expected = LAMBDA * sum(count * loss_of_query(loader, distiller, query) for query, count in real)
    if distiller.reduction == "mean":
        expected /= sum(count for _, count in real)
    assert len({query for query, _ in real}) > 1 and found == pytest.approx(expected, rel=1e-4)


def test_the_published_scale_counts_a_user_of_hstu_once_and_a_query_of_rrd_once(tiny_dataset: TinyData) -> None:
    loader, distiller, found, batch = of_first_batch(tiny_dataset, "HSTU, mean over positions", "CE", "published")
    queries = [int(query) for query in batch[loader._query_field]]
    expected = sum(loss_of_query(loader, distiller, query) for query in queries) / len(queries)
    assert found == pytest.approx(LAMBDA * expected, rel=1e-4)
    loader, distiller, found, batch = of_first_batch(tiny_dataset, "MF, sum", "RRD", "published")
    rows = batch[loader._query_field].tolist()
    assert len(set(rows)) < len(rows)
    expected = sum(loss_of_query(loader, distiller, query) for query in set(rows))
    assert found == pytest.approx(LAMBDA * expected, rel=1e-4)
