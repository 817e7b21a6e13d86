"""A model, replacement or trainer of ours that comes to other weights has another revision, and the cache knows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.utils import init_seed
from torch import nn

from recbole_kd.acceleration.accelerate import accelerate_on_cpu
from recbole_kd.data.split_and_loaders import make_loaders, split_data
from recbole_kd.model.loss_reduction import initialise
from recbole_kd.pipeline import revisions
from recbole_kd.pipeline.revisions import REVISIONS, TRAINER
from recbole_kd.scoring.vector_models import softmax_of
from recbole_kd.training.trainer import KDTrainer
from tests.support import paths
from tests.support.helpers import TinyData, build_config, build_model, dataset_of, write_tiny
from tests.support.runs import run

PINNED = paths.REFERENCE / "pinned_trainings.json"
"""name -> "revision/revision of the trainer" -> the loss of an epoch of three steps and a sum.

The sum is a weighted sum of each trained table.
"""
NO_DROPOUT = {
    "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0, "dropout": 0.0, "hidden_size": 8,
    "n_heads": 2,
    "num_layers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """The tiny data set with item features."""
    made = write_tiny(tmp_path_factory.mktemp("pinned"), "tiny")
    folder = Path(made.data_path) / made.name
    np.save(folder / "visual.npy", np.cos(np.arange(40 * 6)).reshape(40, 6).astype(np.float32))
    (folder / "visual.ids").write_text("".join(f"i{item}\n" for item in range(40)))
    return made


def fix_weights(model: nn.Module) -> None:
    """Give a model weights that depend on no generator, float64."""
    model.double()
    for name, value in vars(model).items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            setattr(model, name, value.double())
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.copy_(
                torch.sin(torch.arange(weight.numel(), dtype=torch.float64) * 1.7 + number).view_as(weight) * 0.3
            )


def three_steps(data: TinyData, name: str, folder: Path) -> list[float]:
    """The loss of an epoch of three steps from fixed weights, and what identifies the weights after it."""
    model_name = "BPR" if name == TRAINER else name
    features = {"item_features": {"visual": "visual.npy"}} if name == "BM3" else {}
    # a cached model's entry names its loss and dropouts
    named: dict[str, Any] = {"loss": "sampled_softmax", "input_dropout": 0.2, "linear_dropout": 0.2}
    of_hstu = named if name.startswith("HSTU") else {}
    config = build_config(data, model_name, learning_rate=0.01, **NO_DROPOUT, **features, **of_hstu)
    splits = split_data(config)
    model: Any = build_model(config, splits)
    fix_weights(model)
    accelerate_on_cpu(model, softmax_of(model))
    initialise(model, None)
    n_rows = len(dataset_of(make_loaders(config, splits).train))
    config["train_batch_size"] = -(-n_rows // 3)
    init_seed(7, True)
    loaders = make_loaders(config, splits)
    trainer = KDTrainer(config, model, checkpoint=folder / "best.pth", scalars=folder / "scalars")
    try:
        loss = trainer._train_epoch(loaders.train, 0)
    finally:
        trainer.tensorboard.close()
    steps = {int(state["step"]) for state in trainer.optimizer.state.values()}
    assert steps == {3}, f"{name} took {steps} steps"
    sums = [
        float((w.detach().flatten() * torch.cos(torch.arange(w.numel(), dtype=torch.float64))).sum())
        for w in model.parameters()
    ]
    return [float(loss), *sums]


def missing(name: str, key: str, found: list[float]) -> str:
    """What to do about a revision without numbers."""
    return f'{name} has no pinned numbers of its revision: store {found} under "{key}" of {name} in {PINNED.name}'


def changed(name: str, found: list[float], wanted: list[float]) -> str:
    """What to do about a training that comes to other numbers."""
    return (
        f"Three steps of {name} come to {found}, revision {REVISIONS[name]} came to {wanted}: mend the code, or, if "
        "the change is meant, "
        f"raise REVISIONS[{name!r}] in recbole_kd/pipeline/revisions.py ({TRAINER!r} if that one's numbers changed "
        "too), and store the new "
        f"numbers beside the old in {PINNED.name}; else the cache serves models that the code before the change trained"
    )


@pytest.mark.parametrize("name", sorted(REVISIONS))
def test_a_change_of_what_is_trained_raises_its_revision(name: str, data: TinyData, tmp_path: Path) -> None:
    found = three_steps(data, name, tmp_path)
    pinned = json.loads(PINNED.read_text()).get(name, {})
    key = f"{REVISIONS[name]}/{REVISIONS[TRAINER]}"
    assert key in pinned, missing(name, key, found)
    assert found == pytest.approx(pinned[key], rel=1e-6, abs=1e-9), changed(name, found, pinned[key])


@pytest.mark.parametrize("kind", ["MF", "BPR", "LightGCN"])
def test_a_changed_loss_is_seen(kind: str, data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred-thousandth of the loss is enough."""
    from recbole.utils import get_model

    plain = get_model(kind).calculate_loss
    monkeypatch.setattr(get_model(kind), "calculate_loss", lambda self, rows: plain(self, rows) * (1 + 1e-5))
    name = TRAINER if kind == "BPR" else kind
    wanted = json.loads(PINNED.read_text())[name][f"{REVISIONS[name]}/{REVISIONS[TRAINER]}"]
    assert three_steps(data, name, tmp_path) != pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_a_raised_revision_trains_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher alone where it is the teacher's, both where it is the trainer's; the manifest says it."""
    first = run(tmp_path)
    with monkeypatch.context() as patched:
        patched.setitem(revisions.REVISIONS, "LightGCN", 2)
        second = run(tmp_path)
        assert not second["teacher"]["cached"] and second["student"]["cached"]
        manifest = json.loads((Path(second["teacher"]["path"]) / "manifest.json").read_text())
        assert manifest["revisions"] == {"LightGCN": 2}
    with monkeypatch.context() as patched:
        patched.setitem(revisions.REVISIONS, TRAINER, 2)
        third = run(tmp_path)
        assert not third["teacher"]["cached"] and not third["student"]["cached"]
    again = run(tmp_path)
    assert (
        again["teacher"]["cached"]
        and again["student"]["cached"]
        and again["teacher"]["path"] == first["teacher"]["path"]
    )
