"""Trajectories: the epochs that are kept and chosen, their export and their reading.

Interruptions are among the cases.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from recbole_kd.cli.run import main
from recbole_kd.data.fingerprint import data_fingerprint
from recbole_kd.errors import TeacherError, TrainingError
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.storage.files import MANIFEST
from recbole_kd.teacher.export import export_teacher
from recbole_kd.teacher.load import load_teacher
from recbole_kd.training import resume_state as resume
from recbole_kd.training.trainer import KDTrainer
from recbole_kd.training.trajectory import KEPT_PER_CHECKPOINT, Trajectory, evenly_spaced
from tests.support.helpers import TinyData, build_case
from tests.support.runs import results, run, words


def test_evenly_spaced() -> None:
    assert evenly_spaced(29, 3) == [9, 19, 29]
    assert evenly_spaced(10, 4) == [2, 5, 7, 10]
    assert evenly_spaced(2, 3) == [0, 1, 2] and evenly_spaced(0, 3) == [0]
    assert evenly_spaced(-1, 3) == []


class Training:
    """A model whose only weight is the number of epochs it has been trained."""

    def __init__(self, eval_step: int = 1) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        self.eval_step, self.cur_step, self.best_epoch = eval_step, 0, -1

    def epoch(self, trajectory: Trajectory, epoch: int, improved: bool) -> None:
        self.model.weight.data.fill_(epoch)
        self.cur_step = 0 if improved else self.cur_step + 1
        self.best_epoch = epoch if improved else self.best_epoch
        if (epoch + 1) % self.eval_step == 0:
            trajectory.after_epoch(epoch, 0.0)


class Recorded(Trajectory):
    """A trajectory that remembers the states which its training wrote."""

    states: dict[int, Any]


def trained(
    folder: Path, n: int, improvements: set[int], epochs: int, state_after: int | None = None
) -> tuple[Recorded, Training, int]:
    """A finished training, and how many snapshots it held at most.

    A state is written after each epoch, or after one alone.
    """
    trajectory, training, most = Recorded(folder, n), Training(), 0
    trajectory.states = {}
    trajectory.follow(training, resumed=False)
    for epoch in range(epochs):
        training.epoch(trajectory, epoch, epoch in improvements)
        most = max(most, len(list(folder.glob("*.pt"))))
        if state_after in (None, epoch):
            trajectory.states[epoch] = trajectory.state()
            trajectory.state_was_written()
    return trajectory, training, most


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_chosen_epochs_are_evenly_spaced_and_few_are_kept(n: int, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    best = rng.choice([0, 1, 2, 5, 17, 60, 299])
    improvements = {best, 0, *rng.sample(range(best + 1), min(best, 10))}
    trajectory, training, most = trained(tmp_path / "kept", n, improvements, best + 31)
    chosen = trajectory.chosen()
    assert chosen[-1] == best and len(chosen) == min(n, best + 1) and chosen == sorted(set(chosen))
    assert most <= 2 * (KEPT_PER_CHECKPOINT + 1) * n + 1, "those of this epoch and those of the last state"
    spacing = (best + 1) / n
    for found, wanted in zip(chosen, evenly_spaced(best, n), strict=True):
        assert abs(found - wanted) <= max(1, (best + 31) / (KEPT_PER_CHECKPOINT * n), spacing / 4)
    last = float(training.model.weight.detach())
    assert [float(training.model.weight.detach()) for _ in trajectory.replay(training.model)] == chosen[:-1]
    assert float(training.model.weight.detach()) == last, "given back as it was"


def test_all_epochs_where_there_are_fewer_whatever_follows(tmp_path: Path) -> None:
    trajectory, _, _ = trained(tmp_path / "kept", 3, {0, 1}, 200)
    assert trajectory.chosen() == [0, 1]


def test_only_validated_epochs_count(tmp_path: Path) -> None:
    trajectory, training = Trajectory(tmp_path / "kept", 3), Training(eval_step=5)
    trajectory.follow(training, resumed=False)
    for epoch in range(60):
        training.epoch(trajectory, epoch, epoch <= 44)
    assert trajectory.chosen() == [14, 29, 44]


@pytest.mark.parametrize("cut", [1, 5, 12, 13, 14, 24, 26, 40])
@pytest.mark.parametrize("back", [0, 1, 3])
def test_a_resumed_training_keeps_the_same(cut: int, back: int, tmp_path: Path) -> None:
    improvements = {0, 2, 3, 7, 9, 11, 22}
    whole, _, _ = trained(tmp_path / "whole", 3, improvements, 45)
    start = max(0, cut - back)  # the state on disk may be older than the newest snapshot
    state = trained(tmp_path / "cut", 3, improvements, cut, state_after=start - 1)[0].states.get(start - 1)
    continued, training = Trajectory(tmp_path / "cut", 3), Training()
    training.best_epoch = max((epoch for epoch in improvements if epoch < start), default=-1)
    training.cur_step = 1
    if state is not None:
        continued.load_state(state)
        assert sorted(state["kept"]) == sorted(int(path.stem) for path in (tmp_path / "cut").glob("*.pt"))
    continued.follow(training, resumed=state is not None)
    for epoch in range(start, 45):
        training.epoch(continued, epoch, epoch in improvements)
    assert continued.chosen() == whole.chosen()
    weights = [
        [float(training.model.weight.detach()) for _ in each.replay(training.model)] for each in (whole, continued)
    ]
    assert weights[0] == weights[1] == whole.chosen()[:-1]


@pytest.mark.parametrize("cut", range(1, 46))
@pytest.mark.parametrize("every", [1, 4])
def test_a_kill_at_any_file_operation_keeps_the_same(
    cut: int, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training killed at removal or renaming number ``cut`` continues from its last state.

    It has the snapshots of that state.
    """
    improvements = {0, 2, 3, 7, 9, 11, 22}
    whole, _, _ = trained(tmp_path / "whole", 3, improvements, 45)
    operations = iter(range(1, 10_000))
    plain_unlink, plain_replace = Path.unlink, os.replace

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if next(operations) == cut:
            raise KeyboardInterrupt
        plain_unlink(path, missing_ok)

    def replace(source: Any, target: Any) -> None:
        if next(operations) == cut:
            raise KeyboardInterrupt
        plain_replace(source, target)

    trajectory, training = Recorded(tmp_path / "cut", 3), Training()
    state, start = None, 0
    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(Path, "unlink", unlink)
        patched.setattr(os, "replace", replace)
        trajectory.follow(training, resumed=False)
        for epoch in range(45):
            training.epoch(trajectory, epoch, epoch in improvements)
            if epoch % every == 0:
                state, start = trajectory.state(), epoch + 1
                trajectory.state_was_written()
    continued, training = Trajectory(tmp_path / "cut", 3), Training()
    if state is not None:
        continued.load_state(state)
    training.cur_step = 1
    continued.follow(training, resumed=state is not None)
    for epoch in range(start, 45):
        training.epoch(continued, epoch, epoch in improvements)
    assert continued.chosen() == whole.chosen()
    assert [float(training.model.weight.detach()) for _ in continued.replay(training.model)] == whole.chosen()[:-1]


def test_a_snapshot_that_changed_on_disk_is_refused(tmp_path: Path) -> None:
    trajectory, _, _ = trained(tmp_path / "kept", 3, {0, 5}, 20)
    state, path = trajectory.state(), next((tmp_path / "kept").glob("*.pt"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(bytes(raw))
    with pytest.raises(TrainingError, match="missing or damaged"):
        Trajectory(tmp_path / "kept", 3).load_state(state)
    path.unlink()
    with pytest.raises(TrainingError, match="missing or damaged"):
        Trajectory(tmp_path / "kept", 3).load_state(state)


def test_a_fresh_training_forgets_what_an_interrupted_one_left(tmp_path: Path) -> None:
    trained(tmp_path / "kept", 3, {0, 5}, 20)
    trajectory = Trajectory(tmp_path / "kept", 3)
    trajectory.follow(Training(), resumed=False)
    assert not list((tmp_path / "kept").glob("*.pt"))


# -- on disk -----------------------------------------------------------------------------------------------------------


def exported(
    data: TinyData, folder: Path, model: str, store: str, dtype: str = "fp32"
) -> tuple[Any, list[torch.Tensor]]:
    """A teacher folder with epochs 1, 4 and (best) 6, and the true scores of each."""
    case = build_case(data, model)
    scorer, queries = Scorer(case.model), torch.arange(case.model.n_users)
    states, truth = {}, []
    for epoch in (1, 4, 6):
        for parameter in case.model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(epoch)) * 0.3
        states[epoch] = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
        with scorer.frozen():
            truth.append(scorer.full(queries).clone())

    def earlier() -> Any:
        for epoch in (1, 4):
            case.model.load_state_dict(states[epoch])
            yield epoch

    manifest = {
        "model": model, "dataset": data.name, "settings": dict(case.config.external_config_dict),
        "trajectory": [1, 4, 6],
        "data": data_fingerprint(*case.splits.parts),
    }  # fmt: skip
    export_teacher(scorer, folder, manifest, store, dtype, earlier())
    return case, truth


@pytest.mark.parametrize(
    ("model", "store", "dtype"),
    [
        ("MF", "factors", "fp32"),
        ("LightGCN", "factors", "fp16"),
        ("NeuMF", "dense", "fp32"),
        ("MF", "dense", "fp16"),
        ("MF", "online", "fp32"),
    ],
)
def test_export_and_load(model: str, store: str, dtype: str, tiny_dataset: TinyData, tmp_path: Path) -> None:
    case, truth = exported(tiny_dataset, tmp_path / "teacher", model, store, dtype)
    teacher = load_teacher(tmp_path / "teacher", case.splits.parts[0])
    trajectory = teacher.trajectory()
    assert trajectory is not None and trajectory[-1] is teacher
    tolerance = 1e-5 if dtype == "fp32" else 5e-3
    for found, wanted in zip(trajectory, truth, strict=True):
        assert found.store == store
        torch.testing.assert_close(found.full(torch.arange(len(wanted))), wanted, rtol=tolerance, atol=tolerance)


def test_a_folder_without_one_has_none(tiny_dataset: TinyData, tmp_path: Path) -> None:
    case = build_case(tiny_dataset, "MF")
    manifest = {"model": "MF", "data": data_fingerprint(*case.splits.parts)}
    export_teacher(Scorer(case.model), tmp_path / "teacher", manifest)
    assert load_teacher(tmp_path / "teacher", case.splits.parts[0]).trajectory() is None


@pytest.mark.parametrize("damage", ["missing", "words", "text"])
def test_damaged_trajectories_are_refused(damage: str, tiny_dataset: TinyData, tmp_path: Path) -> None:
    case, _ = exported(tiny_dataset, tmp_path / "teacher", "MF", "factors")
    path = tmp_path / "teacher" / MANIFEST
    manifest = json.loads(path.read_text())
    if damage == "missing":
        (tmp_path / "teacher" / "scores-4.safetensors").unlink()
    else:
        manifest["trajectory"] = ["../../elsewhere"] if damage == "words" else "1,4,6"
        path.write_text(json.dumps(manifest))
    with pytest.raises(TeacherError, match=r"scores-4.safetensors is missing" if damage == "missing" else "trajectory"):
        load_teacher(tmp_path / "teacher", case.splits.parts[0]).trajectory()


# -- whole runs --------------------------------------------------------------------------------------------------------

OURS: dict[str, Any] = {
    "kd": "HetComp", "kd_n_samples": None, "kd_candidates": None, "kd_compare": "False", "kd_p": "1", "epochs": "6",
    "teacher.epochs": "9",
}  # fmt: skip


def test_a_teacher_without_trajectory_serves_no_method_that_requires_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = run(tmp_path, kd_compare="False", **{"teacher.epochs": "9"})
    ours = run(tmp_path, **OURS)
    assert not ours["teacher"]["cached"] and ours["teacher"]["path"] != plain["teacher"]["path"]
    assert ours["teacher"]["test"] == plain["teacher"]["test"] and "trajectory" not in plain["teacher"]
    assert sorted(path.name for path in Path(ours["teacher"]["path"]).glob("scores*")) == sorted(
        ["scores.safetensors", *(f"scores-{epoch}.safetensors" for epoch in ours["teacher"]["trajectory"][:-1])]
    )
    assert not run(tmp_path, **OURS, kd_n_checkpoints="2")["teacher"]["cached"]
    named = {**OURS, "teacher": None, "teacher.epochs": None, "teacher.embedding_size": None}
    by_path = run(tmp_path, **{**named, "teacher_path": ours["teacher"]["path"]})
    assert (
        by_path["distilled"]["test"] == ours["distilled"]["test"]
        and by_path["teacher"]["trajectory"] == ours["teacher"]["trajectory"]
    )
    capsys.readouterr()
    assert main(words(tmp_path, **{**named, "teacher_path": plain["teacher"]["path"]})) == 2
    assert "HetComp needs the checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize(("which", "epoch"), [(1, 6), (2, 4)], ids=["teacher", "distilled"])
def test_continues_to_the_same_result(which: int, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "SHARE_OF_TIME", 1e9)  # a state after every epoch
    whole = run(tmp_path / "whole", **OURS)
    broken, plain, seen = tmp_path / "broken", KDTrainer._valid_epoch, [0]
    shutil.copytree(tmp_path / "whole" / "data", broken / "data")

    def cut(self: KDTrainer, *args: Any, **kwargs: Any) -> Any:
        seen[0] += self._epoch == 0
        if seen[0] == which and self._epoch == epoch:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(KDTrainer, "_valid_epoch", cut)
        with pytest.raises(KeyboardInterrupt):
            main(words(broken, **OURS))
    assert not results(broken)
    resumed = run(broken, "--resume=True", **OURS)
    assert f"from epoch {epoch}" in (resumed["folder"] / "run.log").read_text()
    assert resumed["teacher"]["trajectory"] == whole["teacher"]["trajectory"]
    assert (
        resumed["distilled"]["test"] == whole["distilled"]["test"]
        and resumed["distilled"]["kd_loss"] == whole["distilled"]["kd_loss"]
    )
    files = [sorted(Path(result["teacher"]["path"]).glob("scores*")) for result in (whole, resumed)]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert not [path for path in (broken / "cache").rglob("*") if ".work" in path.name or path.suffix == ".pt"]


def test_a_stub_of_a_trainer_needs_no_parameters(tmp_path: Path) -> None:
    trajectory = Trajectory(tmp_path / "kept", 3)
    trainer = SimpleNamespace(model=nn.Identity(), eval_step=1, cur_step=0, best_epoch=-1)
    trajectory.follow(trainer, resumed=False)
    trajectory.after_epoch(0, 0.0)
    assert trajectory.chosen() == [0] and not list(trajectory.replay(trainer.model))
