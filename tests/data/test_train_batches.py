"""Quick batches are RecBole's own, bit by bit, and leave nothing behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed

from recbole_kd.data import vectorised_batches as train_batches
from recbole_kd.data.histories.ordered_dataset import OneRowPerUser
from recbole_kd.data.vectorised_batches import TrainBatches, batches_of
from tests.support.helpers import SMALL, TinyData

CASES: list[dict[str, Any]] = [
    {"model": "BPR"},
    {"model": "NeuMF"},
    {"model": "BPR", "train_neg_sample_args": {"distribution": "popularity", "sample_num": 2, "alpha": 1.0,
     "dynamic": False, "candidate_num": 0}},
    {"model": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "alpha": 1.0,
     "dynamic": True, "candidate_num": 3}},
    {"model": "MultiVAE", "train_neg_sample_args": None},
    {"model": "SASRec", "train_neg_sample_args": None, "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO",
     "mode": "full", "group_by": "user"}},
    {"model": "BPR", "train_batch_size": 1},
]  # fmt: skip


def loader_of(data: TinyData, given: dict[str, Any]) -> tuple[Any, Any]:
    """A training loader, from fresh random numbers, and its model for dynamic sampling."""
    from recbole.utils import get_model

    config = Config(
        model=given["model"], dataset=data.name, config_dict={**SMALL, "data_path": data.data_path, **given}
    )
    init_seed(7, True)
    train_data, _, _ = data_preparation(config, create_dataset(config))
    init_seed(8, True)
    model = get_model(config["model"])(config, train_data.dataset)
    if hasattr(train_data, "get_model"):
        train_data.get_model(model)
    init_seed(9, True)
    return train_data, model


def drawn(batches: Any) -> list[dict[str, Any]]:
    return [dict(batch.interaction) for _ in range(2) for batch in batches()]


@pytest.mark.parametrize(
    "given", CASES, ids=["pairwise", "pointwise", "popularity", "dynamic", "users", "histories", "single rows"]
)
def test_batches_are_recboles(given: dict[str, Any], tiny_dataset: TinyData) -> None:
    plain, _ = loader_of(tiny_dataset, given)
    expected = drawn(lambda: plain)
    state = torch.rand(1), np.random.rand()
    quick, _ = loader_of(tiny_dataset, given)
    found = drawn(lambda: batches_of(quick))
    assert (torch.rand(1), np.random.rand()) == state, "as many random numbers were drawn"
    assert len(found) == len(expected) >= 2
    for mine, theirs in zip(found, expected, strict=True):
        assert list(mine) == list(theirs)
        for name, values in theirs.items():
            assert mine[name].dtype == values.dtype and torch.equal(mine[name], values), name


@pytest.mark.parametrize("by_user", [False, True])
def test_rows_of_our_data_sets_are_indexed_at_once(
    by_user: bool, tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loader() -> Any:
        made, _ = loader_of(tiny_dataset, CASES[0])
        kind = type("Ours", (OneRowPerUser, type(made._dataset)), {})
        own = kind.__new__(kind)
        own.__dict__.update(vars(made._dataset))
        own.user_rows = torch.arange(len(made._dataset)).flip(0) if by_user else None
        made._dataset = own
        return made

    plain, quick = loader(), loader()
    init_seed(9, True)
    expected = drawn(lambda: plain)
    monkeypatch.setattr(type(quick), "collate_fn", None)
    init_seed(9, True)
    for mine, theirs in zip(drawn(lambda: batches_of(quick)), expected, strict=True):
        assert all(torch.equal(mine[name], values) for name, values in theirs.items())


class Elsewhere:
    """Scores on a GPU: they are brought to the CPU before anything else is done with them."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores = scores

    def cpu(self) -> torch.Tensor:
        return self.scores


class ModelElsewhere:
    """A model on another device, with random scores."""

    device = torch.device("meta")

    def __init__(self) -> None:
        self.given: list[torch.Tensor] = []
        self.modes: list[str] = []

    def eval(self) -> None:
        self.modes.append("eval")

    def train(self) -> None:
        self.modes.append("train")

    def predict(self, interaction: Any) -> Elsewhere:
        assert interaction["item_id"].device == self.device and not torch.is_grad_enabled()
        self.given.append(torch.rand(len(interaction)))
        return Elsewhere(self.given[-1])


def test_dynamic_negatives_of_a_model_on_a_gpu(tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch) -> None:
    loader, _ = loader_of(tiny_dataset, CASES[3])
    model = ModelElsewhere()
    loader.get_model(model)
    drawn_from: list[torch.Tensor] = []
    plain = loader._sampler.sample_by_user_ids
    monkeypatch.setattr(
        loader._sampler, "sample_by_user_ids", lambda *args: drawn_from.append(plain(*args)) or drawn_from[-1]
    )
    batches = list(batches_of(loader))
    assert len(batches) == len(model.given) >= 2 and model.modes == ["eval", "train"] * len(batches)
    for batch, candidates, scores in zip(batches, drawn_from, model.given, strict=True):
        hardest = scores.view(3, -1).argmax(dim=0)
        assert torch.equal(batch["neg_item_id"], candidates.view(3, -1)[hardest, torch.arange(len(hardest))])
    assert loader.model is model


def test_negatives_are_looked_up_at_once(tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch) -> None:
    loader, _ = loader_of(tiny_dataset, {"model": "BPR"})
    calls: list[int] = []
    plain = train_batches._negatives_of
    monkeypatch.setattr(train_batches, "_negatives_of", lambda sampler: calls.append(1) or plain(sampler))
    batches = TrainBatches(loader)
    iterator = iter(batches)
    next(iterator)
    assert calls == [1] and "sample_by_key_ids" in vars(loader._sampler)
    iterator.close()
    assert "sample_by_key_ids" not in vars(loader._sampler), "an epoch that was left leaves nothing behind"
    assert len(batches) == len(loader) and batches.dataset is loader.dataset


def test_another_sampler_is_left_alone(tiny_dataset: TinyData) -> None:
    loader, _ = loader_of(tiny_dataset, {"model": "BPR"})

    class Own(type(loader._sampler)):  # type: ignore[misc]
        pass

    loader._sampler.__class__ = Own
    for _ in batches_of(loader):
        assert "sample_by_key_ids" not in vars(loader._sampler)
