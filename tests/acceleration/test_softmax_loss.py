"""The softmax over all items by a compiled kernel is torch's, to rounding, and torch's own where it does not serve."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from recbole_kd.acceleration import fused_softmax
from recbole_kd.acceleration.accelerate import accelerate_on_cpu
from recbole_kd.acceleration.fused_softmax import softmax_loss
from recbole_kd.ops import compiled
from recbole_kd.scoring.vector_models import softmax_of
from tests.support.helpers import TinyData, build_case

needs_numba = pytest.mark.skipif(compiled.kernels() is None, reason="numba is not installed")


def loss_and_gradient(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    leaf = scores.clone().requires_grad_()
    loss = softmax_loss(leaf, targets)
    (gradient,) = torch.autograd.grad(3 * loss, leaf)
    return loss.detach(), gradient


@needs_numba
@settings(max_examples=100, deadline=None)
@given(
    n_rows=st.integers(1, 5),
    n=st.integers(1, 3000),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4, 1e30]),
    seed=st.integers(0, 9),
)
def test_loss_and_gradient_are_those_of_float64(n_rows: int, n: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(n_rows, n, generator=generator)
    targets = torch.randint(0, n, (n_rows,), generator=generator)
    exact = scores.double().requires_grad_()
    wanted = cross_entropy(exact, targets)
    (slopes,) = torch.autograd.grad(3 * wanted, exact)
    loss, gradient = loss_and_gradient(scores, targets)
    torch.testing.assert_close(loss.double(), wanted.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), slopes, rtol=1e-5, atol=1e-6 / n)


@needs_numba
def test_items_that_cannot_be_have_no_gradient() -> None:
    scores = torch.tensor([[0.0, -torch.inf, 1.0], [2.0, 3.0, -torch.inf]])
    loss, gradient = loss_and_gradient(scores, torch.tensor([0, 1]))
    torch.testing.assert_close(loss, torch.tensor([1 + torch.e, 1 + 1 / torch.e]).log().mean())
    assert gradient[0, 1] == 0 and gradient[1, 2] == 0 and bool(gradient.isfinite().all())


@needs_numba
def test_the_kernel_makes_one_tensor_of_the_size_of_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets = torch.randn(4, 50), torch.tensor([0, 49, 7, 7])
    monkeypatch.setattr(fused_softmax, "cross_entropy", None)
    assert loss_and_gradient(scores, targets)[1].shape == scores.shape


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_without_a_softmax_are_torchs(value: float) -> None:
    scores = torch.randn(3, 40)
    scores[1, 7] = value
    targets = torch.tensor([0, 1, 2])
    assert softmax_loss(scores, targets).isnan() and cross_entropy(scores, targets).isnan()


def test_scores_that_a_kernel_does_not_take_are_torchs() -> None:
    scores, targets = torch.randn(3, 40), torch.tensor([0, 1, 2])
    assert torch.equal(softmax_loss(scores.double(), targets), cross_entropy(scores.double(), targets))
    strided, of_columns = scores.T, torch.arange(40) % 3
    assert torch.equal(softmax_loss(strided, of_columns), cross_entropy(strided, of_columns))


@pytest.mark.parametrize("target", [-1, 5])
def test_a_target_that_is_no_item_is_refused_as_by_torch(target: int) -> None:
    with pytest.raises(IndexError):
        softmax_loss(torch.randn(2, 5), torch.tensor([1, target]))


def test_without_numba_it_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "kernels", lambda: None)
    scores, targets = torch.randn(4, 50), torch.tensor([0, 49, 7, 7])
    assert torch.equal(softmax_loss(scores, targets), cross_entropy(scores, targets))


def test_only_a_softmax_over_all_items_is_replaced_and_a_copy_keeps_it(tiny_dataset: TinyData) -> None:
    model = build_case(tiny_dataset, "SASRec", setting="sequential").model
    accelerate_on_cpu(model, softmax_of(model))
    assert type(model.loss_fct) is nn.CrossEntropyLoss and model.loss_fct.forward is softmax_loss
    assert copy.deepcopy(model).loss_fct.forward is softmax_loss
    pairwise = build_case(
        tiny_dataset, "SASRec", setting="sequential", loss_type="BPR", train_neg_sample_args={"distribution": "uniform"}
    )
    elsewhere = build_case(tiny_dataset, "SASRec", setting="sequential").model
    elsewhere.device = torch.device("meta")
    smoothed = build_case(tiny_dataset, "SASRec", setting="sequential").model
    smoothed.loss_fct = nn.CrossEntropyLoss(label_smoothing=0.1)
    for other in (pairwise.model, elsewhere, smoothed, build_case(tiny_dataset, "MF").model):
        accelerate_on_cpu(other, softmax_of(other))
        assert "forward" not in getattr(other, "loss_fct", nn.Module()).__dict__
