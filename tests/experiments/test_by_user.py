"""The benchmark of training by user: its tables, its record and its refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from recbole_kd.cli.benchmark import run
from recbole_kd.errors import ConfigError
from recbole_kd.experiments.benchmarks import by_user, sequences
from tests.support.helpers import TinyData

TINY = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "MAX_ITEM_LIST_LENGTH": 5}


def words(data: TinyData, output: Path, *more: str) -> list[str]:
    keys = [f"--{name}={value}" for name, value in TINY.items()]
    given = [f"--by_user={data.name}", f"--data_path={data.data_path}", f"--output={output}", "--epochs=2"]
    return [*given, *keys, "--train_batch_size=100", *more]


@pytest.mark.slow
def test_both_ways_are_trained_timed_and_continued(
    tiny_dataset: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"kd_k": 5, "kd_n_samples": 3, "kd_candidates": 10}.items():
        monkeypatch.setitem(sequences.METHOD, name, value)
    output = tmp_path / "record.json"
    assert run(words(tiny_dataset, output, "--seeds=3", "--repeats=1")) == 0
    first = json.loads(output.read_text())
    steps = [row["steps"] for row in first["epochs"]]
    assert len(steps) == len(by_user.WAYS) and max(steps) - min(steps) <= 1 and steps[0] > 1
    assert all(row["cpu_seconds"] > 0 for row in first["epochs"])
    assert [len(first[way]["3"]) for way in (by_user.ROWS, by_user.BY_USER)] == [2, 2]
    assert first[by_user.ROWS]["3"] != first[by_user.BY_USER]["3"]
    assert run(words(tiny_dataset, output, "--seeds=3,4", "--repeats=0")) == 0
    second = json.loads(output.read_text())
    assert second["epochs"] == first["epochs"] and second[by_user.ROWS]["3"] == first[by_user.ROWS]["3"]
    assert second[by_user.ROWS]["4"] != second[by_user.ROWS]["3"]
    assert capsys.readouterr().out.count("by user, RCE-KD") == 2
    with pytest.raises(ConfigError, match=r"record\.json is not a record of this trial"):
        run(words(tiny_dataset, output, "--seeds=3", "--learning_rate=0.1"))
    monkeypatch.chdir(tmp_path)
    assert json.loads(output.read_text()) == second and [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_training_ends_after_all_epochs(tiny_dataset: TinyData) -> None:
    options = {"data_path": tiny_dataset.data_path, "epochs": 2, "train_batch_size": 400, **TINY}
    found = by_user.curve(by_user.Trial("SASRec", tiny_dataset.name, options), True, 0)
    assert len(found) == 2 and all(0 <= epoch["ndcg@10"] <= 1 and epoch["seconds"] > 0 for epoch in found)
    assert all(3 < epoch["loss"] < 4 for epoch in found)  # that of equal scores of 40 items is 3.7


def test_the_difference_of_the_means_has_its_standard_error() -> None:
    rows, ours = ([[{"ndcg@10": value}] for value in values] for values in ((0.1, 0.2, 0.3), (0.3, 0.3, 0.6)))
    line = by_user.curve_table(rows, ours).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    error = math.sqrt(0.01 / 3 + 0.03 / 3)
    assert cells == ["1", "0.2000", "0.1000 to 0.3000", "0.4000", "0.3000 to 0.6000", "0.2000", f"{error:.4f}"]
    assert by_user.curve_table(rows[:1], ours[:1]).splitlines()[-1].split("|")[-2].strip() == "nan"


@pytest.mark.parametrize("seeds", ["", "1,", "-1", "a", "1.5"])
def test_seeds_that_are_no_numbers_are_refused(seeds: str) -> None:
    with pytest.raises(ConfigError, match=f"--seeds={seeds} is not allowed: expected whole numbers"):
        run(["--by_user=ml-100k", f"--seeds={seeds}"])
