"""Interrupted runs: what is finished is not repeated, what was cut goes on to the same result."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_kd.cli.run import main
from recbole_kd.distiller.rcekd import RCEKD
from recbole_kd.integration.safe_load import load_checkpoint
from recbole_kd.training import resume_state as resume
from recbole_kd.training import training_job
from tests.support import paths
from tests.support.helpers import write_tiny
from tests.support.runs import cut_after, results, run, words

ROOT = paths.ROOT


def weights(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(result["folder"] / "MF.pth")["state_dict"]
    return state


SIX: dict[str, str | None] = {"epochs": "6", "teacher.epochs": "6"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of six epochs in one go."""
    return run(tmp_path_factory.mktemp("whole"), **SIX)


@pytest.mark.parametrize(("stage", "which"), [("teacher", 1), ("student", 2), ("distilled", 3)])
def test_continues_to_the_same_result(
    stage: str, which: int, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "SHARE_OF_TIME", 1e9)  # a state after every epoch, however busy the machine
    broken = tmp_path / "broken"
    broken.mkdir()
    with monkeypatch.context() as patched:
        cut_after(3, which, patched)
        with pytest.raises(KeyboardInterrupt):
            main(words(broken, **SIX))
    assert not results(broken)
    resumed = run(broken, "--resume=True", **SIX)
    assert f"from epoch {3}" in (resumed["folder"] / "run.log").read_text()
    for name in ("teacher", "student", "distilled"):
        assert resumed[name]["test"] == whole[name]["test"] and resumed[name]["valid"] == whole[name]["valid"]
    assert resumed["teacher"]["cached"] is (which > 1) and resumed["student"]["cached"] is (which > 2)
    assert resumed["distilled"]["kd_loss"] == whole["distilled"]["kd_loss"]
    assert (
        resumed["distilled"]["epochs"] == 6 and resumed["distilled"]["best_epoch"] == whole["distilled"]["best_epoch"]
    )
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name])
    assert not list((broken / "cache").rglob("*.pt")) and not list((broken / "cache").rglob("*.best-*"))


def cut_before_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt a run between the last epoch of the distilled student and its result."""
    plain = training_job.best_epoch_metrics

    def cut(trainer: Any, *args: Any) -> Any:
        if getattr(trainer, "distiller", None) is not None:
            raise KeyboardInterrupt
        return plain(trainer, *args)

    monkeypatch.setattr(training_job, "best_epoch_metrics", cut)


@pytest.mark.parametrize(("epochs", "patience"), [("8", "30"), ("60", "2")], ids=["all-epochs", "stopped-early"])
def test_a_training_that_had_ended_is_not_trained_on(
    epochs: str, patience: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a large learning rate, so that the best epoch is not the last
    changes: dict[str, str | None] = {
        "epochs": epochs,
        "stopping_step": patience,
        "learning_rate": "0.3",
        "kd_compare": "False",
    }
    whole = run(tmp_path / "whole", **changes)
    assert whole["distilled"]["best_epoch"] < whole["distilled"]["epochs"] - 1
    monkeypatch.setattr(resume, "SHARE_OF_TIME", 1e9)
    with monkeypatch.context() as patched:
        cut_before_figures(patched)
        with pytest.raises(KeyboardInterrupt):
            main(words(tmp_path / "broken", **changes))
    resumed = run(tmp_path / "broken", "--resume=True", **changes)
    for key in ("test", "valid", "kd_loss", "epochs", "best_epoch"):
        assert resumed["distilled"][key] == whole["distilled"][key], key
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name])


def test_a_training_that_the_clock_had_ended_is_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, str | None] = {"epochs": "8", "max_minutes": "1e-9", "kd_compare": "False"}
    monkeypatch.setattr(resume, "SHARE_OF_TIME", 1e9)
    with monkeypatch.context() as patched:
        cut_before_figures(patched)
        with pytest.raises(KeyboardInterrupt):
            main(words(tmp_path, **changes))
    resumed = run(tmp_path, "--resume=True", **changes)
    assert resumed["teacher"]["stopped_by"] == "epochs", "the student's cap is not the teacher's"
    assert (
        resumed["distilled"]["stopped_by"] == "max_minutes"
        and resumed["distilled"]["epochs"] == len(resumed["distilled"]["kd_loss"]) == 1
    )


def test_a_cap_is_refused_where_recbole_trains_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path, **{"teacher": "EASE", "teacher.max_minutes": "5", "teacher.embedding_size": None})) == 2
    assert "max_minutes=5" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [3, 4])
def test_item_sets_of_several_epochs(cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, str | None] = {"epochs": "7", "kd_refresh": "2", "kd_compare": "False"}
    whole = run(tmp_path / "whole", **changes)
    monkeypatch.setattr(resume, "SHARE_OF_TIME", 1e9)
    with monkeypatch.context() as patched:
        cut_after(cut, 2, patched)
        with pytest.raises(KeyboardInterrupt):
            main(words(tmp_path / "broken", **changes))
    resumed = run(tmp_path / "broken", "--resume=True", **changes)
    assert f"from epoch {cut // 2 * 2}" in (resumed["folder"] / "run.log").read_text()
    assert resumed["distilled"]["kd_loss"] == whole["distilled"]["kd_loss"]
    assert resumed["distilled"]["test"] == whole["distilled"]["test"]


def test_what_is_drawn_before_training_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = RCEKD.begin_training

    def draws(self: RCEKD, train_items: Any) -> None:
        plain(self, train_items)
        torch.rand(7, generator=self.generator)
        torch.rand(3)

    monkeypatch.setattr(RCEKD, "begin_training", draws)
    changes: dict[str, str | None] = {"epochs": "5", "kd_compare": "False"}
    whole = run(tmp_path / "whole", **changes)
    with monkeypatch.context() as patched:
        cut_after(2, 2, patched)
        with pytest.raises(KeyboardInterrupt):
            main(words(tmp_path / "broken", **changes))
    resumed = run(tmp_path / "broken", "--resume=True", **changes)
    assert "Continuing" in (resumed["folder"] / "run.log").read_text()
    assert resumed["distilled"]["kd_loss"] == whole["distilled"]["kd_loss"]


def test_states_of_a_data_set_with_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path / "data", "tiny.v2")
    for seed in ("1", "2"):
        with monkeypatch.context() as patched:
            cut_after(1, 2 if seed == "1" else 1, patched)
            with pytest.raises(KeyboardInterrupt):
                main(words(tmp_path, dataset="tiny.v2", seed=seed, kd_compare="False"))
    assert len(list((tmp_path / "cache" / "distilled").glob("tiny.v2-MF-*.pt"))) == 2


def test_a_damaged_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patched:
        cut_after(1, 2, patched)
        with pytest.raises(KeyboardInterrupt):
            main(words(tmp_path, kd_compare="False"))
    (state,) = (tmp_path / "cache" / "distilled").glob("*.pt")
    state.write_bytes(state.read_bytes()[:-500])
    capsys.readouterr()
    assert main([*words(tmp_path, kd_compare="False"), "--resume=True"]) == 2
    assert f"error: {state} cannot be continued from" in capsys.readouterr().err


def test_a_state_whose_best_checkpoint_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        cut_after(2, 2, patched)
        with pytest.raises(KeyboardInterrupt):
            main(words(tmp_path, kd_compare="False"))
    (best,) = (tmp_path / "cache" / "distilled").glob("*.pt.best-*")  # one, however many epochs were the best so far
    best.unlink()
    capsys.readouterr()
    assert main([*words(tmp_path, kd_compare="False"), "--resume=True"]) == 2
    assert "cannot be continued from" in capsys.readouterr().err


def test_without_resume_it_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        cut_after(1, 3, patched)
        with pytest.raises(KeyboardInterrupt):
            main(words(tmp_path))
    again = run(tmp_path)
    assert "Continuing" not in (again["folder"] / "run.log").read_text()
    assert len(again["distilled"]["kd_loss"]) == 3


def started(folder: Path, *more: str, **changes: str | None) -> multiprocessing.Process:
    """The main job in a forked process of its own, whose words go to ``folder``/said."""
    words_ = [*words(folder, **changes), *more]
    process = multiprocessing.get_context("fork").Process(target=_run_quietly, args=(words_, folder / "said"))
    process.start()
    return process


def _run_quietly(words_: list[str], said: Path) -> None:
    with open(said, "a", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.exit(main(words_))


def test_two_runs_train_one_teacher_between_them(tmp_path: Path) -> None:
    write_tiny(tmp_path / "data", "tiny")
    both = [started(tmp_path, seed=str(seed), kd_compare="False", **{"teacher.epochs": "30"}) for seed in (1, 2)]
    for process in both:
        process.join(120)
        assert process.exitcode == 0, (tmp_path / "said").read_text()[-2000:]
    assert sorted(result["teacher"]["cached"] for result in results(tmp_path)) == [False, True]
    logs = [(result["folder"] / "run.log").read_text() for result in results(tmp_path)]
    assert sum(log.count("Training the teacher") for log in logs) == 1
    assert not (tmp_path / "log_tensorboard").exists()


def test_a_killed_process_resumes(tmp_path: Path) -> None:
    changes: dict[str, str | None] = {"epochs": "40", "kd_compare": "False", "stopping_step": "100"}
    whole = run(tmp_path / "whole", **changes)
    broken = tmp_path / "broken"
    write_tiny(broken / "data", "tiny")
    process = started(broken, **changes)
    deadline = time.monotonic() + 300
    while not list((broken / "cache").glob("distilled/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not results(broken) and list((broken / "cache").glob("distilled/*.pt"))
    resumed = run(broken, "--resume=True", **changes)
    assert "Continuing MF from epoch" in (resumed["folder"] / "run.log").read_text()
    assert resumed["distilled"]["test"] == whole["distilled"]["test"]
    assert resumed["distilled"]["kd_loss"] == whole["distilled"]["kd_loss"]
