"""LightGCN's fast propagation is RecBole's, up to rounding."""

from __future__ import annotations

import copy

import torch
from recbole.model.general_recommender import LightGCN

from recbole_kd.acceleration.lightgcn_propagation import accelerate
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
    for model in (OwnLightGCN(case.config, case.splits.parts[0]), build_case(tiny_dataset, "BPR").model):
        accelerate(model)
        assert "forward" not in model.__dict__


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
