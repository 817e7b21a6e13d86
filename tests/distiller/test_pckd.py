"""PCKD: equal to the published class; what is sampled; what the regulariser moves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats

from recbole_kd.distiller import pckd as module
from recbole_kd.distiller.pckd import PCKD
from recbole_kd.distiller.registry import check_options
from recbole_kd.errors import ConfigError
from tests.support.embedding_stubs import (
    assert_equals_published,
    batch_of_rows,
    give_noise,
    load_networks,
    random_pair,
    reference,
    vector_pair,
)
from tests.support.stubs import no_train_items


@pytest.mark.parametrize("case", reference("pckd"), ids=["list", "list-later", "pair", "extreme"])
def test_pckd_equals_the_published_class(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = vector_pair(case)
    options = {"alpha": case["alpha"], "regulariser": case["regulariser"], "temperature": case["softmax_temperature"]}
    listed, sampled = torch.tensor(case["listed"]) + 1, torch.tensor(case["sampled"]) + 1
    places = (listed.unsqueeze(1) == sampled.unsqueeze(2)).int().argmax(2)
    monkeypatch.setattr(module, "sample_without_replacement", lambda *_: torch.cat([places[:1], places]))
    distiller = PCKD(student, teacher, n_experts=3, n_samples=3, candidates=8, **options)  # type: ignore[arg-type]
    load_networks(distiller.user_experts, case["user"])
    load_networks(distiller.item_experts, case["item"])
    give_noise(distiller, case)
    distiller.begin_training(no_train_items(student.n_queries))
    distiller.begin_epoch(case["epoch"])
    assert torch.equal(distiller._ranked[1:], listed) and torch.equal(distiller.item_sets["sampled"][1:], sampled)
    assert_equals_published(distiller, student, case)


def test_items_are_drawn_by_rank_without_replacement() -> None:
    n_users = 20000
    student, teacher = random_pair(n_users=n_users, n_items=9)
    distiller = PCKD(student, teacher, n_samples=2, candidates=6, tau=3.0, seed=5)  # type: ignore[arg-type]
    distiller.begin_training(no_train_items(n_users + 1))
    weights = torch.exp(-torch.arange(1, 7) / 3.0)
    first = (weights / weights.sum()).tolist()
    expected = [[0.0 if i == j else first[i] * first[j] / (1 - first[i]) for j in range(6)] for i in range(6)]
    counts = torch.zeros(6, 6)
    for epoch in range(5):
        distiller.begin_epoch(epoch)
        places = (distiller._ranked.unsqueeze(1) == distiller.item_sets["sampled"].unsqueeze(2)).int().argmax(2)[1:]
        counts.index_put_((places[:, 0], places[:, 1]), torch.ones(n_users), accumulate=True)
    off = ~torch.eye(6, dtype=torch.bool)
    assert not counts.diag().any()
    shares = torch.tensor(expected, dtype=torch.float64)[off].numpy()
    assert stats.chisquare(counts[off].double().numpy(), shares / shares.sum() * 5 * n_users).pvalue > 1e-3


def test_teacher_ranking_is_made_once_and_the_students_each_epoch() -> None:
    for guide in ("teacher", "student"):
        student, teacher = random_pair()
        distiller = PCKD(student, teacher, guide=guide, n_samples=2, candidates=4)  # type: ignore[arg-type]
        distiller.begin_training(no_train_items(13))
        distiller.begin_epoch(0)
        guide_scores = student if guide == "student" else teacher
        assert torch.equal(distiller._ranked, guide_scores.top_k(torch.arange(13), 4)[0])
        before = distiller._ranked
        with torch.no_grad():
            student.users.mul_(-1)
        distiller.begin_epoch(1)
        assert torch.equal(before, distiller._ranked) == (guide == "teacher")


def test_regulariser_leaves_the_student_alone_and_counts_rows() -> None:
    student, teacher = random_pair()
    distiller = PCKD(student, teacher, n_experts=1)  # type: ignore[arg-type]
    distiller.reduction = "sum"
    distiller.begin_training(no_train_items(13))
    distiller.begin_epoch(0)
    batch = batch_of_rows([2, 5, 5], [1, 2, 3], [4, 5, 6], distiller)
    each = distiller._regulariser(batch.queries, batch.sets["sampled"].ids)
    moved = torch.autograd.grad(each.sum(), [student.users, distiller.user_experts.weight_1], allow_unused=True)
    assert moved[0] is None and bool(moved[1].any())
    with_reg, without = float(distiller(batch).detach()), float(distiller.expert_loss(batch).detach())
    assert with_reg - without == pytest.approx(0.5 * float(each.detach() @ torch.tensor([1.0, 2.0])), rel=1e-3)


def test_a_catalogue_smaller_than_the_list() -> None:
    student, teacher = random_pair(n_items=2)
    check_options(PCKD, OPTIONS | {"n_samples": 2}, 12, 2)
    distiller = PCKD(student, teacher, n_samples=2, candidates=100)  # type: ignore[arg-type]
    distiller.begin_training(no_train_items(13))
    distiller.begin_epoch(0)
    assert distiller.item_sets["sampled"].sort(1).values.unique(dim=0).tolist() == [[1, 2]]


OPTIONS = {
    "alpha": 0.5, "regulariser": "list", "guide": "teacher", "n_samples": 5, "candidates": 100, "tau": 10.0,
    "temperature": 0.1,
    "n_experts": 5, "end_temperature": 1e-10, "anneal": 1e10, "max_epoch": 1000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alpha", -1.0),
        ("alpha", math.inf),
        ("n_samples", 0),
        ("n_samples", 21),
        ("candidates", 0),
        ("tau", 0.0),
        ("temperature", math.nan),
    ],
)
def test_options_out_of_range_are_refused_by_name(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"kd_{key}={value}"):
        check_options(PCKD, OPTIONS | {key: value}, 30, 20)


def test_a_pair_needs_two_items() -> None:
    with pytest.raises(ConfigError, match="kd_n_samples=1"):
        check_options(PCKD, OPTIONS | {"regulariser": "pair", "n_samples": 1}, 30, 20)
