"""The ratio of gradient norms, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from recbole_kd.distiller.registry import distiller_class
from recbole_kd.training.gradient_ratio import gradient_norm, gradient_ratio
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import TinyData, build_case, scorer_of
from tests.support.method_cases import METHODS, make_teacher, small_options


def test_norms_are_those_of_the_gradients_and_the_graph_stays() -> None:
    first, second = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([1.0]))
    base, kd = (first**2).sum(), 5 * second.sum() + first.sum()
    assert float(gradient_norm(base, [first, second])) == pytest.approx(10.0)  # 2 * (3, 4)
    assert float(gradient_ratio(base, kd, [first, second])) == pytest.approx(27**0.5 / 10)  # (1, 1) and 5
    (base + kd).backward()
    assert first.grad is not None and torch.equal(first.grad, torch.tensor([7.0, 9.0]))


def test_a_loss_without_a_gradient_has_none() -> None:
    weight = nn.Parameter(torch.ones(2))
    assert float(gradient_norm(torch.ones(()), [weight])) == 0
    assert float(gradient_ratio(weight.sum(), torch.zeros(()), [weight])) == 0


def test_sparse_gradients_count() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    loss = table(torch.tensor([1, 1, 3])).sum()
    assert float(gradient_norm(loss, table.parameters())) == pytest.approx((4 * 2 + 2) ** 0.5)


@pytest.mark.parametrize("model", ["MF", "SASRec"])
@pytest.mark.parametrize("name", METHODS)
def test_measuring_changes_no_bit_of_a_training(name: str, model: str, tiny_dataset: TinyData, tmp_path: Path) -> None:
    if model == "SASRec" and distiller_class(name).requires & {"embeddings", "modalities"}:
        pytest.skip("needs vectors of users")
    outcomes = []
    for measures in (False, True):
        case = build_case(tiny_dataset, model, epochs=1, kd=name)
        scorer = scorer_of(case)
        teacher, _ = make_teacher(distiller_class(name), scorer.n_queries, scorer.n_items)
        distiller = distiller_class(name)(scorer, teacher, **small_options(name))
        distiller.reduction = getattr(case.model, "loss_reduction", "mean")
        trainer = KDTrainer(case.config, case.model, distiller, checkpoint=tmp_path / "student.pth")
        trainer.measures_gradients = measures
        trainer.fit(case.loaders.train, saved=False)
        assert ("grad_ratio" in trainer.history[0]) == measures
        outcomes.append(torch.cat([parameter.detach().flatten() for parameter in case.model.parameters()]))
    assert torch.equal(*outcomes)
