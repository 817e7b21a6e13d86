"""TensorBoard's writer of a training."""

from __future__ import annotations

import errno
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_kd.training import scalars
from recbole_kd.training.scalars import scalar_writer
from tests.support.runs import run


def test_a_writer_writes_into_its_folder(tmp_path: Path) -> None:
    writer = scalar_writer(tmp_path / "scalars")
    writer.add_scalar("loss", 1.0, 0)
    writer.close()
    assert list((tmp_path / "scalars").iterdir())


def test_a_thread_that_has_no_memory_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(scalars.mmap, "mmap", full)
    with pytest.raises(MemoryError, match="16 MiB for a thread: Cannot allocate memory"):
        scalar_writer(tmp_path / "scalars")
    assert not (tmp_path / "scalars").exists()


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module in place of wandb that notes what is logged."""
    noted = SimpleNamespace(logged=[], metrics={}, projects=[], summary={})
    module: Any = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    module.run = None

    def init(project: str, config: Any) -> None:
        noted.projects.append(project)
        module.run = SimpleNamespace(summary=noted.summary)

    module.init = init
    module.log = lambda metrics, commit: noted.logged.append(metrics)
    module.define_metric = lambda name, step_metric: noted.metrics.update({name: step_metric})
    monkeypatch.setitem(sys.modules, "wandb", module)
    return noted


def test_figures_of_a_distillation_go_where_recboles_metrics_go(tmp_path: Path, wandb: SimpleNamespace) -> None:
    pytest.importorskip("faiss")
    more = ["--log_wandb=True", "--wandb_project=mine", "--kd_candidate_index=ivf", "--kd_nlist=4", "--kd_nprobe=4"]
    result = run(tmp_path, *more, show_progress="True")
    assert wandb.projects == ["mine"] and wandb.metrics["KD/*"] == wandb.metrics["train/*"] == "train_step"
    epochs = [entry for entry in wandb.logged if any(name.startswith("KD/") for name in entry)]
    assert [entry["train_step"] for entry in epochs] == [0, 1, 2]
    history = result["distilled"]["history"]
    names = {name.removeprefix("KD/") for name in epochs[0] if name != "train_step"}
    assert {"base_loss", "kd_loss", "weighted_kd_loss", "grad_ratio"} < names
    for part in ("overlap", "gamma", "recall"):
        assert any(part in name for name in names), (part, names)
    for epoch, entry in enumerate(epochs):
        assert {name: entry[f"KD/{name}"] for name in names} == {name: history[name][epoch] for name in names}
    assert any(name.startswith("valid/") for entry in wandb.logged for name in entry)
    folders = {str(file.parent) for file in Path(result["folder"]).rglob("events.out.*")}
    boards = [set(EventAccumulator(folder).Reload().Tags()["scalars"]) for folder in folders]
    assert any({f"KD/{name}" for name in names} <= tags for tags in boards)
