"""Sizes, times and seeds in results are those of what they name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recbole.utils import ModelType
from scipy import sparse

from recbole_kd.evaluation import efficiency
from recbole_kd.evaluation.efficiency import FEWEST_CALLS, TIMED_CALLS, WARM_UP, inference_us_per_user
from recbole_kd.experiments.tables import _teacher_seed
from recbole_kd.model.size import size_of
from tests.support.helpers import TinyData, build_case
from tests.support.runs import run


def test_a_model_of_similarities_counts_them(tiny_dataset: TinyData) -> None:
    model = build_case(tiny_dataset, "EASE").model
    n_items, n_users = model.n_items, model.n_users
    size = size_of(model)
    assert size["parameters"] >= n_items**2 - n_items and size["bytes"] >= 4 * (n_items**2 - n_items)
    assert size["parameters"] <= n_items**2 + n_users * n_items


def test_every_kind_of_array_is_counted() -> None:
    kept = {
        "dense": np.zeros((3, 4), dtype=np.float32), "tensor": torch.zeros(5, dtype=torch.float64),
        "sparse": sparse.csr_matrix(([1.0, 2.0], ([0, 1], [1, 0])), shape=(2, 2)),
        "sparse tensor": torch.eye(3).to_sparse(), "name": "no array",
    }  # fmt: skip
    model: Any = SimpleNamespace(type=ModelType.TRADITIONAL, other_parameter=lambda: kept)
    size = size_of(model)
    assert size["parameters"] == 12 + 5 + 2 + 3
    assert size["bytes"] == 48 + 40 + (16 + 8 + 12) + 12


@pytest.mark.parametrize(
    ("seconds", "n_calls"),
    [(1e-3, WARM_UP + TIMED_CALLS), (1.0, 1 + FEWEST_CALLS)],
    ids=["all calls of a fast model", "few of a slow one"],
)
def test_times_are_taken_after_a_warm_up(seconds: float, n_calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    calls: list[int] = []

    def top_k(queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(queries))
        clock[0] += seconds if len(calls) > 1 else 50 * seconds  # the first call is slow, and counts for nothing
        return queries, queries

    monkeypatch.setattr(efficiency, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(efficiency, "WARM_UP", WARM_UP)  # as they are shipped: elsewhere the tests take fewer
    monkeypatch.setattr(efficiency, "TIMED_CALLS", TIMED_CALLS)
    scorer: Any = SimpleNamespace(n_queries=101, n_items=50, device=torch.device("cpu"), top_k=top_k)
    assert inference_us_per_user(scorer) == pytest.approx(1e6 * seconds / 100) and len(calls) == n_calls


def test_equal_models_have_equal_times(tmp_path: Path) -> None:
    result = run(tmp_path, teacher="EASE", **{"teacher.epochs": None, "teacher.embedding_size": None})
    assert result["student"]["inference_us_per_user"] == result["distilled"]["inference_us_per_user"] > 0
    assert result["teacher"]["parameters"] > 1000 and result["teacher"]["bytes"] > 4000


@pytest.mark.parametrize(
    ("settings", "seed"), [({}, 0), ({"teacher_config": {"seed": 5}}, 5), ({"teacher.seed": 3}, 3)]
)
def test_the_seed_of_a_grids_teacher_is_its_own(settings: dict[str, Any], seed: int) -> None:
    assert _teacher_seed(SimpleNamespace(settings=settings)) == seed  # type: ignore[arg-type]
