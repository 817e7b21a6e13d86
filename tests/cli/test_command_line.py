"""The main job through the public command: what it prints and what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_kd.cli.run import main
from tests.support import paths
from tests.support.runs import results, run, words

ROOT = paths.ROOT
FIGURES = {"valid", "test", "parameters", "bytes", "inference_us_per_user"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("main-job")


@pytest.fixture(scope="module")
def first(folder: Path) -> dict[str, Any]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return run(folder)
    finally:
        os.chdir(before)


def test_result_holds_the_contract(first: dict[str, Any]) -> None:
    assert {
        "dataset": "tiny",
        "setting": "general",
        "model": "MF",
        "teacher_model": "LightGCN",
        "kd": "RCEKD",
    }.items() <= first.items()
    assert first["eval_protocol"] == "recbole" and first["kd_weight"] == 10.0 and first["seed"] == 2020
    for stage in ("teacher", "student", "distilled"):
        assert first[stage].keys() >= FIGURES
        assert set(first[stage]["test"]) == {"recall@10", "recall@20", "ndcg@10", "ndcg@20"}
    distilled = first["distilled"]
    assert distilled["epochs"] == 3 and 0 <= distilled["best_epoch"] < 3 and len(distilled["kd_loss"]) == 3
    assert (
        distilled["seconds_per_epoch"] > distilled["kd_seconds_per_epoch"] > 0
        and distilled["process_peak_rss_mb"] > 100
    )
    assert first["student"]["parameters"] == distilled["parameters"] == (31 + 41) * 4
    assert distilled["bytes"] == 4 * distilled["parameters"]
    assert (
        not first["teacher"]["cached"]
        and {"python", "torch", "recbole", "recbole_kd", "commit", "device"} <= first["versions"].keys()
    )
    every = [
        value
        for stage in ("teacher", "student", "distilled")
        for value in (first[stage]["valid"] | first[stage]["test"]).values()
    ]
    assert any(value != round(value, 4) for value in every)
    assert first["command"].startswith("recbole-kd run --model=MF")


def test_kd_loss_is_unweighted(first: dict[str, Any]) -> None:
    # a cross-entropy over 5 to 15 items is between 0 and a few nats a row; weighted by 10 it would not be
    rows = 480
    assert all(0.1 * rows < loss < 6 * rows for loss in first["distilled"]["kd_loss"])


def test_folder_of_a_run(first: dict[str, Any], folder: Path) -> None:
    made: Path = first["folder"]
    assert {"result.json", "run.log", "MF.pth", "tensorboard"} <= {path.name for path in made.iterdir()}
    assert not (folder / "log_tensorboard").exists() and not (folder / "log").exists()
    assert "Property files of the distilled: overall, model/MF, distiller/RCEKD" in (made / "run.log").read_text()
    events = EventAccumulator(str(made / "tensorboard"))
    events.Reload()
    tags = {
        "KD/overlap_mean",
        "KD/gamma_q25",
        "KD/gamma_q50",
        "KD/gamma_q75",
        "KD/overlap_rate",
        "KD/closure_share",
        "KD/base_loss",
        "KD/kd_loss",
    }
    assert tags <= set(events.Tags()["scalars"])
    assert [event.value for event in events.Scalars("KD/kd_loss")] == pytest.approx(
        first["distilled"]["kd_loss"], rel=1e-5
    )


def test_second_run_trains_only_the_distilled_student(first: dict[str, Any], folder: Path) -> None:
    second = run(folder)
    assert second["teacher"]["cached"] and second["student"]["cached"]
    assert (
        second["teacher"]["test"] == first["teacher"]["test"] and second["student"]["test"] == first["student"]["test"]
    )
    assert second["distilled"]["test"] == first["distilled"]["test"]
    assert second["distilled"]["kd_loss"] == first["distilled"]["kd_loss"]


def test_another_seed_shares_the_teacher_and_not_the_student(first: dict[str, Any], folder: Path) -> None:
    other = run(folder, seed="7")
    assert other["teacher"]["cached"] and not other["student"]["cached"]
    assert other["distilled"]["kd_loss"] != first["distilled"]["kd_loss"]


def test_table_on_the_screen(first: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, kd_compare="False")
    out = capsys.readouterr().out
    for word in (
        "teacher LightGCN",
        "MF + RCEKD",
        "test ndcg@10",
        "test recall@20",
        "parameters",
        "size of weights",
        "inference, us per user",
    ):
        assert word in out
    assert "MF alone" not in out
    assert results(folder)[-1]["student"] is None


def test_a_saved_teacher_by_path(first: dict[str, Any], folder: Path) -> None:
    again = run(
        folder,
        teacher=None,
        teacher_path=first["teacher"]["path"],
        **{"teacher.epochs": None, "teacher.embedding_size": None},
    )
    assert again["teacher_model"] == "LightGCN"
    assert again["distilled"]["kd_loss"] == first["distilled"]["kd_loss"]


@pytest.mark.parametrize("store", ["dense", "online"])
def test_every_store_gives_the_same_distillation(first: dict[str, Any], folder: Path, store: str) -> None:
    other = run(folder, teacher_store=store, kd_compare="False")
    assert other["teacher"]["cached"], "another store comes from the kept weights, without training again"
    assert other["distilled"]["kd_loss"] == pytest.approx(first["distilled"]["kd_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("model", "teacher"),
    [("BPR", "EASE"), ("LightGCN", "NeuMF"), ("NeuMF", "MF"), ("MultiVAE", "ItemKNN"), ("SGL", "MultiVAE")],
)
def test_other_students_and_teachers(folder: Path, model: str, teacher: str) -> None:
    more = {
        "teacher.embedding_size": "8" if teacher == "MF" else None,
        "embedding_size": None if model in ("NeuMF", "MultiVAE") else "4",
    }
    given = [
        w
        for w in words(folder, model=model, teacher=teacher, kd_compare="False")
        if not w.startswith(("--embedding", "--teacher.emb"))
    ]
    before = Path("log_tensorboard").exists()
    assert main([*given, *(f"--{key}={value}" for key, value in more.items() if value)]) == 0
    assert Path("log_tensorboard").exists() is before
    result = results(folder)[-1]
    assert result["model"] == model and all(loss > 0 for loss in result["distilled"]["kd_loss"])


def test_from_a_shell(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run_recbole_kd.py")]
    bad = subprocess.run([*command, *words(tmp_path, kd="RCKD")], cwd=tmp_path, capture_output=True, text=True)
    assert bad.returncode == 2 and "Traceback" not in bad.stderr
    (line,) = bad.stderr.splitlines()
    assert line.startswith("error: ") and "RCEKD" in line
    assert not (tmp_path / "saved").exists()


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0 and main([]) == 0 and main(["--version"]) == 0
    helped = capsys.readouterr().out
    assert "--teacher_path" in helped and "--kd_KEY=VALUE" in helped
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert "RCEKD" in listed and "LightGCN" in listed and "citeulike" in listed


def test_no_epoch_at_all(tmp_path: Path) -> None:
    distilled = run(tmp_path, epochs="0", kd_compare="False")["distilled"]
    assert distilled["epochs"] == 0 and distilled["kd_loss"] == [] and distilled["best_epoch"] == -1
    assert distilled["seconds_per_epoch"] is None and distilled["kd_seconds_per_epoch"] is None
