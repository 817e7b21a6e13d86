"""A teacher of the other family than the student's is compared with it by the student's own kind of ranking."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_kd.cli.run import main
from recbole_kd.data.split_and_loaders import make_loaders
from recbole_kd.data.train_items import train_items
from recbole_kd.evaluation.teacher_ranking import valid_as_student
from recbole_kd.teacher.stores.factors import FactorScores
from recbole_kd.teacher.stores.remapped import N_USERS
from tests.support.helpers import SEQUENTIAL, Case, build_case, write_tiny
from tests.support.runs import results, words

OF_SASREC = ["--setting=sequential", "--hidden_size=8", "--inner_size=8", "--n_layers=1", "--n_heads=1"]


def teacher_of(case: Case, **manifest: Any) -> FactorScores:
    generator = torch.Generator().manual_seed(2)
    sizes = case.splits.n_users + 1, case.splits.n_items + 1
    users, items = (torch.randn(n, 6, generator=generator) for n in sizes)
    return FactorScores(users, items, {"model": "MF", **manifest})


def ndcg(scores: Tensor, target: int, k: int = 10) -> float:
    """NDCG of one relevant item; the padding's column is no item."""
    rank = int((scores[1:] > scores[target]).sum()) + 1
    return 1 / math.log2(rank + 1) if rank <= k else 0.0


def valid_targets(case: Case) -> dict[int, int]:
    rows = case.splits.parts[1].inter_feat
    return {int(u): int(i) for u, i in zip(rows["user_id"], rows["item_id"], strict=True)}


def test_a_sequential_teacher_of_a_general_student_leaves_training_items_out(tmp_path: Path) -> None:
    case = build_case(write_tiny(tmp_path, "tiny"), "MF", eval_args=SEQUENTIAL["eval_args"])
    teacher = teacher_of(case)
    assert valid_as_student(case.config, case.splits, teacher) is None  # both are of users
    of_histories = teacher_of(case, **{N_USERS: case.splits.n_users + 1})
    found = valid_as_student(case.config, case.splits, of_histories)
    seen = train_items(make_loaders(case.config, case.splits).train)
    expected = []
    for user, target in valid_targets(case).items():
        scores = teacher.full(torch.tensor([user]))[0]
        scores[seen.items[seen.starts[user] : seen.starts[user + 1]]] = -math.inf
        expected.append(ndcg(scores, target))
    assert found is not None and found["ndcg@10"] == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_a_general_teacher_of_a_sequential_student_ranks_training_items_too(tmp_path: Path) -> None:
    case = build_case(write_tiny(tmp_path, "tiny"), "SASRec")
    teacher = teacher_of(case)
    expected = [ndcg(teacher.full(torch.tensor([u]))[0], target) for u, target in valid_targets(case).items()]
    found = valid_as_student(case.config, case.splits, teacher)
    assert found is not None and found["ndcg@10"] == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_a_run_records_it_and_judges_by_it(tmp_path: Path) -> None:
    assert main([*words(tmp_path, teacher="SASRec"), *OF_SASREC]) == 0
    (result,) = results(tmp_path)
    teacher, metric = result["teacher"], result["valid_metric"].lower()
    assert teacher["valid_as_student"].keys() == teacher["valid"].keys()
    assert result["verdict"]["valid"]["teacher"] == teacher["valid_as_student"][metric]
    assert "ranked as MF is, the teacher has" in (result["folder"] / "run.log").read_text()
