"""Peak memory of models: a step and a batch of each student, a run of what can only teach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_kd.experiments.benchmarks import model_memory
from recbole_kd.experiments.benchmarks.model_matrix import Outcome, in_child
from recbole_kd.experiments.benchmarks.model_memory import memory_table, run_memory


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_memory, "N_USERS", 60)
    monkeypatch.setattr(model_memory, "N_ITEMS", 120)
    monkeypatch.setattr(model_memory, "COLOURS", 3)


def test_students_make_a_step_and_others_teach(tmp_path: Path) -> None:
    record = tmp_path / "memory.json"
    found = run_memory(["BPR", "NeuMF", "Pop"], record)
    assert {key: (outcome.state, outcome.said[:8]) for key, outcome in found.items()} == {
        "BPR student FullCE": ("trained", "2048 row"),
        "NeuMF student FullCE": ("trained", "16 rows "),
        "Pop student FullCE": ("refused", "--model="),
        "Pop teacher CE": ("trained", ""),
    }
    assert all(outcome.peak_mb > 50 for outcome in found.values())
    kept = json.loads(record.read_text())
    kept["BPR student FullCE"]["said"] = "from the record"
    record.write_text(json.dumps(kept))
    assert run_memory(["BPR"], record)["BPR student FullCE"].said == "from the record"


def test_the_peak_is_that_of_the_child(tmp_path: Path) -> None:
    def greedy() -> Outcome:
        sum(bytearray(b"\1" * 200 * 2**20)[:: 2**12])
        return Outcome("trained")

    assert in_child(greedy, tmp_path).peak_mb > in_child(lambda: Outcome("trained"), tmp_path).peak_mb + 150


def test_the_table_is_ordered_by_peak_without_refusals() -> None:
    found = {
        "A student FullCE": Outcome("trained", peak_mb=1.0),
        "B teacher CE": Outcome("out of time", "late", peak_mb=3000.0),
        "B student FullCE": Outcome("refused", peak_mb=9000.0),
    }
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in memory_table(found).splitlines()[2:]]
    assert lines == [
        ["B", "teacher", "CE", "3,000", "out of time", "late"],
        ["A", "student", "FullCE", "1", "trained", ""],
    ]
