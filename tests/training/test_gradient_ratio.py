"""The ratio of gradient norms, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_kd.training.gradient_ratio import gradient_norm, gradient_ratio


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
