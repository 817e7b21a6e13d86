"""LightGCN's fast propagation is RecBole's, up to rounding."""

from __future__ import annotations

import copy
from itertools import islice

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from recbole.model.general_recommender import LightGCN

from recbole_kd.acceleration.lightgcn_propagation import accelerate
from recbole_kd.ops import compiled, compiled_propagation
from recbole_kd.ops.compiled_propagation import Propagation
from recbole_kd.scoring.scorer import Scorer
from tests.support.helpers import TinyData, build_case


class OwnLightGCN(LightGCN):
    """A model of a user's own."""


def test_forward_loss_and_gradients_are_recboles(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "LightGCN", n_layers=3)
    plain, fast = case.model, copy.deepcopy(case.model)
    accelerate(fast)
    batch = next(iter(case.loaders.train))
    for ours, theirs in zip(fast.forward(), plain.forward(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    losses = [model.calculate_loss(batch) for model in (fast, plain)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-6)
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-5)


def test_a_subclass_and_another_model_are_left_alone(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "LightGCN")
    case.config["embedding_size"] = 160
    for model in (OwnLightGCN(case.config, case.splits.parts[0]), build_case(tiny_dataset, "BPR").model):
        accelerate(model)
        assert "forward" not in model.__dict__ and "calculate_loss" not in model.__dict__


def test_a_copy_propagates_its_own_vectors(tiny_dataset: TinyData) -> None:
    model = build_case(tiny_dataset, "LightGCN").model
    accelerate(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.user_embedding.weight.zero_()
        twin.item_embedding.weight.zero_()
    assert not bool(twin.forward()[0].any())
    assert bool(model.forward()[0].any())


def test_frozen_parameters_get_no_gradient(tiny_dataset: TinyData) -> None:
    model = build_case(tiny_dataset, "LightGCN").model
    accelerate(model)
    with torch.no_grad():
        assert not model.forward()[0].requires_grad
    assert model.forward()[0].requires_grad


needs_numba = pytest.mark.skipif(compiled.kernels() is None, reason="numba is not installed")


@needs_numba
@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_means_at_rows_and_their_gradients_are_those_of_dense_products(
    n_layers: int, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks of columns and a half one; a row without neighbours."""
    monkeypatch.setattr(compiled_propagation, "n_threads", lambda: n_threads)
    draw = np.random.default_rng(n_layers)
    half = np.triu(draw.random((30, 30)) < 0.2, 1) * draw.random((30, 30))
    half[:, 7] = half[7] = 0
    matrix = (half + half.T).astype(np.float32)
    torch.manual_seed(0)
    tables = [torch.randn(n, 80, requires_grad=True) for n in (12, 18)]
    rows, outer = torch.tensor([0, 7, 11, 12, 29]), torch.randn(2, 5, 80)
    found = Propagation(sp.csr_matrix(matrix), n_layers).at(*tables, rows)
    assert found is not None
    whole, dense = torch.cat(tables), torch.from_numpy(matrix)
    mean = sum(torch.linalg.matrix_power(dense, k) @ whole for k in range(n_layers + 1)) / (n_layers + 1)
    for ours, theirs in zip(found, (mean[rows], whole[rows]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    ours, theirs = (
        torch.autograd.grad((torch.stack(list(pair)) * outer).sum(), tables)
        for pair in (found, (mean[rows], whole[rows]))
    )
    for own, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, wanted, rtol=0, atol=1e-5)


@needs_numba
@pytest.mark.parametrize("require_pow", [False, True])
def test_the_steps_of_a_wide_model_have_recboles_losses(tiny_dataset: TinyData, require_pow: bool) -> None:
    wide = {"embedding_size": 144, "reg_weight": 1e-2, "require_pow": require_pow, "train_batch_size": 64}
    case = build_case(tiny_dataset, "LightGCN", **wide)
    plain, fast = case.model, copy.deepcopy(case.model)
    accelerate(fast)
    optimisers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in (fast, plain)]
    for batch in islice(iter(case.loaders.train), 6):
        losses = []
        for model, optimiser in zip((fast, plain), optimisers, strict=True):
            optimiser.zero_grad()
            losses.append(model.calculate_loss(batch))
            losses[-1].backward()
            optimiser.step()
        torch.testing.assert_close(*losses, rtol=0, atol=1e-5)
    assert losses[0].shape == losses[1].shape


@needs_numba
def test_a_step_that_shares_the_propagation_uses_it_for_the_loss(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "LightGCN", embedding_size=144)
    accelerate(case.model)
    batch, calls = next(iter(case.loaders.train)), []
    once = case.model.forward
    alone = case.model.calculate_loss(batch)
    case.model.forward = lambda: calls.append("asked") or once()
    with Scorer(case.model).step(batch):
        torch.testing.assert_close(case.model.calculate_loss(batch), alone, rtol=0, atol=1e-5)
    assert calls == ["asked"]


def test_without_numba_a_wide_model_has_the_same_loss(tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch) -> None:
    case = build_case(tiny_dataset, "LightGCN", embedding_size=144)
    plain, fast = case.model, copy.deepcopy(case.model)
    accelerate(fast)
    monkeypatch.setattr(compiled_propagation, "kernels", lambda: None)
    batch = next(iter(case.loaders.train))
    torch.testing.assert_close(*(model.calculate_loss(batch) for model in (fast, plain)), rtol=0, atol=1e-5)
