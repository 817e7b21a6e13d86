"""What a search hands its workers and says of its trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.errors import ConfigError
from recbole_kd.tuning import ray_trial
from recbole_kd.tuning.ray_record import StudyRecord
from recbole_kd.tuning.ray_worker import NODE_CACHE
from recbole_kd.tuning.space import Space
from recbole_kd.tuning.study import FAILED, TRIALS, Study, Trial, absolute


def test_workers_get_the_default_folder_of_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute({"model": "MF"}) == {"model": "MF", "data_path": str((tmp_path / "dataset").resolve())}
    assert absolute({"data_path": "mine"})["data_path"] == str((tmp_path / "mine").resolve())


def test_reasons_are_not_cut(tmp_path: Path) -> None:
    reason = " ".join(f"word{number}" for number in range(80))
    study = Study({}, tmp_path, [Trial({"kd_k": 4}, "failed", reason=reason)])
    table = study.table()
    assert all(f"word{number}" in table for number in range(80))

    class Lost:
        metrics, config, error = {"state": "running", "epoch": 1, "best": 0.5}, {}, RuntimeError(reason)

    space: Any = type("Any", (Space,), {"settings": lambda self, drawn, kd: {}, "__init__": lambda self: None})()
    assert ray_trial.as_trial(Lost(), space, study).reason == reason


def test_the_last_epoch_is_reported_by_the_finished_trial_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler that stops a trial at a report cannot stop one that has run all its epochs."""
    tune = pytest.importorskip("ray.tune")
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", lambda metrics: reports.append(metrics))

    def trained(base: Any, settings: Any, after_epoch: Any) -> Trial:
        for epoch in range(3):
            after_epoch(epoch, 0.1 * epoch)
        return Trial({}, "done", 0.2, True, 3, "ndcg@10", {"ndcg@10": 0.2}, {"ndcg@10": 0.2})

    monkeypatch.setattr(ray_trial, "run_trial", trained)
    monkeypatch.setattr(ray_trial, "unpack", lambda *_: None)
    monkeypatch.setattr(ray_trial, "own_devices", dict)
    monkeypatch.setattr(ray_trial, "_of_the_training", lambda base, settings: (True, 3))
    space: Any = type("Any", (Space,), {"settings": lambda self, drawn, kd: {}, "__init__": lambda self: None})()
    base = {"cache_dir": str(tmp_path), "output_dir": str(tmp_path), NODE_CACHE: False}
    ray_trial.ray_trial({}, base, space, ([], None))
    assert [(report["epoch"], report["state"]) for report in reports] == [(1, "running"), (2, "running"), (3, "done")]


@pytest.mark.parametrize("state", ["done", "stopped", "failed", "interrupted"])
def test_a_known_trial_is_told_from_the_record_and_only_an_interrupted_one_trains(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its epochs are reported again, in the sense that the metric has: here less is better."""
    tune = pytest.importorskip("ray.tune")
    reports: list[dict[str, Any]] = []
    trained: list[Any] = []
    settings = {"kd_k": 4}
    done = Trial(settings, "done", 0.7, False, 3, "rmse", {"rmse": 0.7}, {"rmse": 0.8})
    monkeypatch.setattr(tune, "report", lambda metrics: reports.append(metrics))
    monkeypatch.setattr(ray_trial, "run_trial", lambda *given: trained.append(given) or done)
    monkeypatch.setattr(ray_trial, "unpack", lambda *_: None)
    monkeypatch.setattr(ray_trial, "_of_the_training", lambda base, settings: (False, 3))
    space: Any = type("Any", (Space,), {"settings": lambda self, drawn, kd: settings, "__init__": lambda self: None})()
    record = StudyRecord(tmp_path / "study")
    for epoch, score in ((1, 0.9), (2, 0.8)):
        record.note(settings, Trial(settings, "interrupted", score, False, epoch), -score)
    last = {"done": done, "failed": Trial(settings, "failed", reason="no room")}
    record.note(settings, last.get(state, Trial(settings, state, 0.8, False, 2)))
    base = {"cache_dir": str(tmp_path), "output_dir": str(tmp_path), NODE_CACHE: False}
    ray_trial.ray_trial({}, base, space, ([], None), record.plain())
    assert [(report["epoch"], report["objective"]) for report in reports[:2]] == [(1, -0.9), (2, -0.8)]
    assert len(trained) == (state == "interrupted")
    objective = {"done": -0.7, "stopped": -0.8, "failed": FAILED, "interrupted": -0.7}[state]
    assert len(reports) == 3 and reports[2]["state"] == ("done" if state == "interrupted" else state)
    assert reports[2]["objective"] == objective


def test_a_changed_digit_of_a_record_is_refused(tmp_path: Path) -> None:
    done = Trial({"kd_k": 4}, "done", 0.5, True, 3, "ndcg@10", {"ndcg@10": 0.5}, {"ndcg@10": 0.4})
    study = Study({}, tmp_path / "study", [done])
    study.write()
    record = StudyRecord(tmp_path / "study")
    record.note(done.settings, done)
    assert Study({}, study.folder).finished() == [done]
    for path in (study.folder / TRIALS, next((study.folder / "record").glob("*.json"))):
        text = path.read_text()
        path.write_text(text.replace('"score": 0.5', '"score": 0.6'))
        with pytest.raises(ConfigError, match=f"{path.name} is damaged \\(its SHA-256 differs\\)"):
            Study({}, study.folder).finished() if path.name == TRIALS else StudyRecord(study.folder).read()
        path.write_text(text)
    StudyRecord(study.folder).read()
    earlier = json.loads((study.folder / TRIALS).read_text())
    earlier.pop("sha256")
    (study.folder / TRIALS).write_text(json.dumps(earlier))
    assert Study({}, study.folder).finished() == [done]
