"""Ranking losses: against their formulas, autograd, and at scores of 1e4."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_kd.losses import ranking as loss_ranking
from recbole_kd.losses.ranking import (
    discrepancy_weights,
    listwise_loss,
    pairwise_loss,
    pointwise_loss,
    share_above,
    soft_binary_loss,
)
from tests.support.baselines import naive_listwise


def plain(listed: Tensor, rest: Tensor) -> Tensor:
    """Autograd's version of one list ``[K]`` over a rest ``[L]``."""
    return sum(
        (torch.cat([listed[k:], rest]).logsumexp(0) - listed[k] for k in range(len(listed))),
        torch.zeros((), dtype=listed.dtype),
    )


def test_toy_values() -> None:
    loss = listwise_loss(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[0.5]]))
    assert float(loss) == pytest.approx(1.654347, abs=1e-6)
    # s = (0, ln 3, ln 2), pi = (item 3, item 1, item 2)
    loss = listwise_loss(torch.tensor([[[math.log(2), 0.0, math.log(3)]]]), torch.empty(1, 0))
    assert float(loss) == pytest.approx(2.484907, abs=1e-6)


@pytest.mark.parametrize("in_logs", [False, True])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_value_and_gradient_equal_autograd(scale: float, in_logs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_ranking, "TINY", math.inf if in_logs else 0.0)
    generator = torch.Generator().manual_seed(0)
    listed, rest = (torch.randn(*shape, generator=generator) * scale for shape in ((4, 3, 6), (4, 5)))
    listed.requires_grad_(), rest.requires_grad_()
    weights = torch.rand(4, 3, generator=generator)
    found = listwise_loss(listed, rest)
    (found * weights).sum().backward()
    l64, r64 = (t.detach().double().requires_grad_() for t in (listed, rest))
    expected = torch.stack([torch.stack([plain(l64[b, s], r64[b]) for s in range(3)]) for b in range(4)])
    (expected * weights).sum().backward()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(listed.grad.double(), l64.grad, rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
    torch.testing.assert_close(rest.grad.double(), r64.grad, rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_does_not_count_is_as_if_it_were_not_there(data: st.DataObject) -> None:
    k, n = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 4))
    scale = data.draw(st.sampled_from([1.0, 20.0, 1e4]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    listed, rest = (torch.randn(1, *shape, generator=generator) * scale for shape in ((1, k), (n,)))
    valid = torch.tensor([[data.draw(st.lists(st.booleans(), min_size=k, max_size=k))]])
    rest_valid = torch.tensor([data.draw(st.lists(st.booleans(), min_size=n, max_size=n))], dtype=torch.bool).view(1, n)
    listed.requires_grad_(), rest.requires_grad_()
    loss = listwise_loss(listed, rest, valid, rest_valid)
    loss.sum().backward()
    expected = naive_listwise(listed[valid].tolist(), rest[rest_valid].tolist())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-4)
    for scores, counts in ((listed, valid), (rest, rest_valid)):
        assert torch.isfinite(scores.grad).all() and (scores.grad[~counts] == 0).all()  # type: ignore[union-attr, index]


def test_list_that_falls_by_1e4_a_step() -> None:
    """Exponentials of the lower places vanish: the denominators must not."""
    listed = (-1e4 * torch.arange(5.0)).view(1, 1, 5).requires_grad_()
    rest = torch.full((1, 3), -1e6)
    loss = listwise_loss(listed, rest)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-3) and float(listed.grad.abs().max()) < 1e-3  # type: ignore[union-attr]
    upward = (1e4 * torch.arange(5.0)).view(1, 1, 5)
    assert float(listwise_loss(upward, rest)) == pytest.approx(1e5, rel=1e-6)


def test_lists_share_their_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    listed, rest = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 5, generator=generator)
    each = torch.cat([listwise_loss(listed[:, s : s + 1], rest) for s in range(3)], dim=1)
    torch.testing.assert_close(listwise_loss(listed, rest), each)


def test_pairwise() -> None:
    better, worse = (
        torch.tensor([[1.0, 4.0], [1e4, 0.0], [0.0, 0.0]]),
        torch.tensor([[0.0, 9.0], [-1e4, 1e4], [0.0, 0.0]]),
    )
    valid = torch.tensor([[True, False], [True, True], [False, False]])
    assert pairwise_loss(better, worse, valid).tolist() == pytest.approx([math.log1p(math.exp(-1)), 5e3, 0.0])


def test_soft_binary() -> None:
    student, teacher = torch.tensor([[0.5, -1e4]]), torch.tensor([[1.0, 1e4]])
    target = 1 / (1 + math.exp(-(1.0 + 0.2) / 2))
    expected = target * math.log1p(math.exp(-0.5)) + (1 - target) * math.log1p(math.exp(0.5))
    assert float(soft_binary_loss(student, teacher, torch.tensor([[True, False]]), 2.0, 0.2)) == pytest.approx(expected)
    assert float(soft_binary_loss(student, teacher, torch.tensor([[False, True]]), 2.0, 0.2)) == pytest.approx(1e4)


def test_pointwise() -> None:
    assert float(pointwise_loss(torch.tensor([[0.0, -1e4]]), torch.tensor([[0.5, 0.25]]))) == pytest.approx(
        0.5 * math.log(2) + 2500
    )


def test_share_above_counts_what_is_strictly_higher() -> None:
    others, valid = torch.tensor([[3.0, 1.0, 2.0, 9.0]] * 2), torch.tensor([[True, True, True, False], [False] * 4])
    found = share_above(torch.tensor([[2.0, 0.0, 3.0, 9.0]] * 2), others, valid)
    assert found[0].tolist() == pytest.approx([1 / 3, 1.0, 0.0, 0.0]) and found[1].tolist() == [0.0] * 4


def test_discrepancy_is_cut_at_zero() -> None:
    found = discrepancy_weights(torch.tensor([[9.0, 0.0]]), torch.tensor([[2.0, 1.0]]), 0.1)
    assert found.tolist()[0] == pytest.approx([math.tanh(0.7), 0.0])
