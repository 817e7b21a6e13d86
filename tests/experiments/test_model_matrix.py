"""The matrix of models: each cell is trained or refused before anything is trained, kept, and not run again."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from recbole_kd.cli.program import run_verb
from recbole_kd.errors import ConfigError
from recbole_kd.experiments.benchmarks import model_matrix
from recbole_kd.experiments.benchmarks.model_matrix import FAULT, LATE, SLOW, Outcome, cells_of, run_matrix
from recbole_kd.experiments.benchmarks.model_table import table


def test_a_few_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_matrix, "METHODS", ("CE",))
    record = tmp_path / "models.json"
    found = run_matrix(["EASE", "NCL"], record, seconds=600)
    assert {key: outcome.state for key, outcome in found.items()} == {
        "EASE teacher CE": "trained",
        "NCL teacher CE": "refused",
        "EASE student CE": "refused",
        "NCL student CE": "refused",
    }
    assert "TraditionalTrainer" in found["EASE student CE"].said
    kept = json.loads(record.read_text())
    kept["EASE teacher CE"]["state"] = "from the record"
    record.write_text(json.dumps(kept))
    assert run_matrix(["EASE", "NCL"], record)["EASE teacher CE"].state == "from the record"
    lines = table(found).splitlines()
    assert next(line for line in lines if line.startswith("| EASE ")) == "| EASE | trained | refused (1) |"
    assert "1. --model=MODEL cannot be a student: RecBole trains it with TraditionalTrainer" in "\n".join(lines)
    assert lines[-1].startswith("4 runs; the largest peak memory is ") and max(map(len, lines[-8:])) <= 120


def test_a_fault_and_a_run_without_end_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Outcome:
        raise SystemExit(3)

    assert model_matrix.in_child(broken, tmp_path).state == FAULT

    def endless() -> Outcome:
        while True:
            pass

    assert model_matrix.in_child(endless, tmp_path, seconds=1).state == SLOW
    monkeypatch.setattr(model_matrix, "WALL", 0.1)
    assert model_matrix.in_child(lambda: time.sleep(60), tmp_path, seconds=1).state == SLOW  # type: ignore[return-value]


def test_a_refusal_after_the_plan_is_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("too late")

    monkeypatch.setattr(model_matrix, "run_request", refuse)
    model_matrix.write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    (cell, *_) = cells_of(["Pop"])
    assert model_matrix.outcome_of(cell, tmp_path).state == LATE


@pytest.mark.parametrize("words", [["--only=Nothing"], ["--output={record}"]])
def test_bad_input_is_one_sentence(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "other.json"
    record.write_text("[1]")
    assert run_verb("benchmark", ["--models", *(word.format(record=record) for word in words)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
