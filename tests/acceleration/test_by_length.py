"""Encoding in groups of like length is RecBole's encoding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.model.sequential_recommender import SASRec
from torch import Tensor

from recbole_kd.acceleration.length_groups import encode_by_length, in_groups
from recbole_kd.ops.length_groups import LENGTH_RATIO
from tests.support.helpers import Case, TinyData, build_case

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0}


class OwnSASRec(SASRec):
    """A model of a user's own."""


def sequential(data: TinyData, model: str, **more: Any) -> Case:
    return build_case(data, model, MAX_ITEM_LIST_LENGTH=20, setting="sequential", **more)


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("SASRec", {}),
        ("SASRec", {"n_layers": 1, "n_heads": 1}),
        ("SASRec", {"n_layers": 3, "n_heads": 4, "hidden_act": "relu"}),
        ("GRU4Rec", {}),
    ],
)
def test_vectors_losses_and_gradients_are_recboles(model: str, more: dict[str, Any], tiny_dataset: TinyData) -> None:
    case = sequential(tiny_dataset, model, **NO_DROPOUT, **more)
    with torch.no_grad():
        for parameter in case.model.parameters():  # biases too: RecBole starts them at nought
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    plain, grouped = case.model.train(), copy.deepcopy(case.model)
    encode_by_length(grouped)
    batch = next(iter(case.loaders.train))
    assert len(batch[plain.ITEM_SEQ_LEN].unique()) > 3
    losses = [each.calculate_loss(batch) for each in (grouped.train(), plain)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-6)
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(grouped.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_a_copy_encodes_with_its_own_weights(tiny_dataset: TinyData) -> None:
    case = sequential(tiny_dataset, "SASRec", **NO_DROPOUT)
    encode_by_length(case.model.train())
    twin, batch = copy.deepcopy(case.model), next(iter(case.loaders.train))
    with torch.no_grad():
        twin.LayerNorm.weight.zero_()
    columns = batch[case.model.ITEM_SEQ], batch[case.model.ITEM_SEQ_LEN]
    assert not torch.equal(twin.forward(*columns), case.model.forward(*columns))


def test_a_subclass_and_another_model_are_left_alone(tiny_dataset: TinyData) -> None:
    case = sequential(tiny_dataset, "SASRec")
    for model in (OwnSASRec(case.config, case.splits.parts[0]), sequential(tiny_dataset, "NARM").model):
        encode_by_length(model)
        assert "forward" not in model.__dict__


@given(st.lists(st.integers(0, 60), min_size=1, max_size=40))
def test_every_row_comes_back_in_its_place_and_no_group_is_much_wider_than_a_row(lengths: list[int]) -> None:
    sizes = torch.tensor(lengths)
    items = (torch.arange(60) < sizes.unsqueeze(1)).long() * (1 + torch.arange(len(lengths)).unsqueeze(1))

    def encode(rows: Tensor, of: Tensor) -> Tensor:
        assert rows.shape[1] <= LENGTH_RATIO * max(1, int(of.min()))
        assert torch.equal((rows > 0).sum(1), of)
        return torch.stack([rows.sum(1), of], dim=1).float()

    assert torch.equal(in_groups(encode, items, sizes), torch.stack([items.sum(1), sizes], dim=1).float())
