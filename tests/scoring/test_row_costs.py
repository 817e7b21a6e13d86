"""Calls of a model are as large as its measured memory allows, and the scores are those of one call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from recbole_kd.evaluation import full_ranking
from recbole_kd.scoring import own_scores, row_costs
from recbole_kd.scoring.row_costs import AllocationMeter, row_cost
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import TinyData, build_case, scorer_of

LAYERS = (64, 32)


def test_the_meter_counts_what_is_alive_and_what_was_allocated() -> None:
    x = torch.zeros(1000)
    with AllocationMeter() as meter:
        for _ in range(3):
            y = x + 1
        z = y.view(10, 100)
        del y, z
        x.add_(1)
    assert meter.total == 3 * 4000 and meter.peak == 2 * 4000 and meter.live == 0


@pytest.mark.parametrize("depth", [1, 4])
def test_a_row_costs_the_outputs_of_the_layers(depth: int) -> None:
    model: Any = nn.Sequential(*[nn.Linear(64, 64) for _ in range(depth)])
    cost = row_cost(model, lambda n: model(torch.ones(n, 64)), 8, 64)
    assert cost.total == 4 * 64 * (depth + 1) and cost.peak == pytest.approx(4 * 64 * min(3, depth + 1), rel=0.01)
    assert cost.seconds > 0 and cost.rows_per_call(True) <= cost.rows_per_call(False)


NAMES = ("NeuMF", "ConvNCF", "NNCF", "DIN", "TransRec", "GCMC", "HGN")
CONVNCF: dict[str, Any] = {
    "cnn_channels": [1, 8, 8, 8],
    "cnn_kernels": [2, 2, 2],
    "cnn_strides": [2, 2, 2],
    "train_method": "no_pretrain",
}


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_gradients_are_those_of_one_call(
    tiny_dataset: TinyData, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = build_case(tiny_dataset, name, **(CONVNCF if name == "ConvNCF" else {}), train_batch_size=16)
    scorer = scorer_of(case)
    queries = torch.arange(1, 9)
    items = torch.arange(1, 41).repeat(len(queries), 1)
    found = []
    for budget in (2**60, 1):
        monkeypatch.setattr(row_costs, "CALL_BYTES", budget)
        monkeypatch.setattr(own_scores, "SMALL_CALLS", {"pairs": (2, 7), "queries": (1, 3)})
        case.model.eval().zero_grad()
        if budget == 1:
            monkeypatch.setattr(row_costs.RowCost, "rows_per_call", lambda self, differentiable: 5)
        full, at = scorer.full(queries), scorer.at(queries, items)
        (full.square().sum() + at.sum()).backward()
        gradients = [p.grad.clone() for p in case.model.parameters() if p.grad is not None]
        with scorer.frozen():
            frozen = scorer.full(queries)
        found.append((full.detach(), at.detach(), frozen, *gradients))
    assert len(found[0]) > 3 and len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["full", "uni10"])
@pytest.mark.parametrize("name", ["NeuMF", "DIN", "TransRec"])
def test_an_evaluation_in_small_calls_has_the_same_metrics(
    tiny_dataset: TinyData, name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = build_case(tiny_dataset, name)
    if mode != "full":
        args = {**case.config["eval_args"], "mode": {"valid": mode, "test": mode}}
        case = build_case(tiny_dataset, name, eval_args={**args, "mode": mode})
    trainer = KDTrainer(case.config, case.model, None)
    one = trainer.evaluate(case.loaders.test, load_best_model=False)
    monkeypatch.setattr(row_costs.RowCost, "rows_per_call", lambda self, differentiable: 7)
    assert trainer.evaluate(case.loaders.test, load_best_model=False) == pytest.approx(one)
    assert "full_sort_predict" not in vars(case.model)


def test_a_long_evaluation_is_announced_once(tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch) -> None:
    case = build_case(tiny_dataset, "NeuMF")
    trainer = KDTrainer(case.config, case.model, None)
    said: list[str] = []
    monkeypatch.setattr(full_ranking, "show", said.append)
    monkeypatch.setattr(full_ranking, "LONG_EVALUATION", 0)
    for _ in range(2):
        trainer.evaluate(case.loaders.valid, load_best_model=False)
    found = [line for line in said if "NeuMF scores one pair of a user and an item at a time" in line]
    assert len(found) == 1 and "30 users and 41 items" in found[0]
