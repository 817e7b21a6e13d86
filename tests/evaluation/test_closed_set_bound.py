"""Partial NDCG on closed sets and its bound, by hand; recording them changes no training."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import recbole_kd
from recbole_kd.errors import ConfigError
from recbole_kd.evaluation import closed_set_bound as module
from recbole_kd.evaluation.closed_set_bound import NAMES, closed_set_bound
from recbole_kd.evaluation.teacher_rank_curve import ranks_of
from tests.support.helpers import TinyData
from tests.support.recbole_scripts import recbole_parts
from tests.support.runs import run
from tests.support.stubs import TableScorer, dense, padded

TEACHER = torch.tensor([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])
STUDENT = torch.tensor([[4.0, 3.0, 1.0, 0.0], [5.0, 1.0, 0.5, 0.0]])  # user 1 turns the teacher's order, user 2 has it


def found_of(student: torch.Tensor, teacher: torch.Tensor) -> dict[str, float]:
    return closed_set_bound(TableScorer(padded(student)), dense(teacher))  # type: ignore[arg-type]


def test_figures_equal_a_computation_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SET_SIZE", 2)
    e, second = math.e, 1 / math.log2(3)
    # user 1: own set = items 1, 2 with teacher softmax (1, e) / (1 + e) and student log-softmax of (4, 3)
    own = (1 + e * second) / (e + second)
    loss = math.log(1 + 1 / e) + e / (1 + e)
    # teacher's list = items 4, 3, which the student ranks fourth and third
    listed = (e / math.log2(5) + 1 / math.log2(4)) / (e + second)
    # user 2: both sets are items 1, 2 in the same order, with student log-softmax of (5, 1)
    same = math.log(1 + math.exp(-4)) + 4 / (1 + e)
    bound = (math.exp(-loss) + math.exp(-same)) / 2
    expected = [(own + 1) / 2, bound, (own + 1) / 2 - bound, (listed + 1) / 2, 0.5]
    assert found_of(STUDENT, TEACHER) == pytest.approx(dict(zip(NAMES, expected, strict=True)))


def test_the_bound_holds_for_each_query_at_extreme_scores_and_long_catalogues() -> None:
    generator = torch.Generator().manual_seed(3)
    for scale in (1e-3, 1.0, 1e4):
        student, teacher = (scale * torch.randn(1, 80, generator=generator) for _ in range(2))
        found = found_of(student, teacher)
        assert all(math.isfinite(value) for value in found.values())
        assert found["closed_gap"] >= 0 and 0 <= found["closed_bound"] <= found["closed_ndcg"] <= 1
        assert found["teacher_list_closed"] == 0
    assert found_of(teacher, teacher)["teacher_list_closed"] == 1


def test_only_some_queries_are_measured_and_none_that_the_teacher_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = dense(TEACHER)
    teacher.covered = torch.tensor([False, False, True])
    scorer: Any = TableScorer(padded(STUDENT))
    alone = found_of(STUDENT[1:], TEACHER[1:])
    assert closed_set_bound(scorer, teacher) == alone
    monkeypatch.setattr(module, "MOST_QUERIES", 1)
    assert found_of(STUDENT, TEACHER) == found_of(STUDENT[:1], TEACHER[:1])


def test_a_teacher_that_leaves_items_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="teacher_unlisted=floor"):
        closed_set_bound(TableScorer(padded(STUDENT)), SimpleNamespace(masks=True))  # type: ignore[arg-type]


def test_a_rank_is_among_all_items() -> None:
    assert ranks_of(STUDENT[:1], torch.tensor([[3, 2]])).tolist() == [[4, 3]]


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    given = {"kd_compare": "False", "teacher.embedding_size": "8"}
    return str(run(tmp_path_factory.mktemp("teacher"), **given)["teacher"]["path"])


@pytest.mark.parametrize("model", ["MF", "MultiVAE"])
def test_a_training_has_the_same_bits_with_and_without(
    model: str, tiny_dataset: TinyData, teacher_folder: str, tmp_path: Path
) -> None:
    outcome = []
    for track in ((), ("bound",)):
        more = {"train_neg_sample_args": None} if model == "MultiVAE" else {}
        keys: dict[str, Any] = {"epochs": 3, "kd": "RCEKD", "kd_k": 5, **more}
        config, student, train, valid, _ = recbole_parts(tiny_dataset, model, tmp_path / str(len(track)), **keys)
        distiller = recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher_folder, train))
        trainer = recbole_kd.KDTrainer(config, student, distiller, track=track)
        trainer.fit(train, valid)
        outcome.append((trainer.history, student.state_dict()))
    (plain, weights), (tracked, same) = outcome
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert [{k: v for k, v in epoch.items() if k not in NAMES} for epoch in tracked] == plain
    assert all(set(NAMES) <= set(epoch) and epoch["closed_gap"] > 0 for epoch in tracked)
