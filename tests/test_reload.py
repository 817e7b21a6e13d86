"""A distilled student is read and tested by RecBole's own tools."""

from __future__ import annotations

from pathlib import Path

import pytest
from recbole.quick_start import load_data_and_model
from recbole.trainer import Trainer

from recbole_kd.data.preparation import split_data
from tests.helpers import TinyData, build_config
from tests.runs import SHORT, run

RANDOM = "--eval_args={split: {RS: [0.8, 0.1, 0.1]}, order: RO, group_by: user, mode: full}"


@pytest.mark.parametrize("seed", [1, 2020])
def test_a_student_of_any_seed_is_tested_on_its_own_split(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.runs.SHORT", [word for word in SHORT if not word.startswith("--eval_args")])
    result = run(tmp_path, RANDOM, "--kd_compare=False", f"--seed={seed}")
    config, model, _, _, _, test = load_data_and_model(result["folder"] / "MF.pth")
    again = Trainer(config, model).evaluate(test, load_best_model=False)
    assert dict(again) == pytest.approx(result["distilled"]["test"])


def test_a_split_without_a_seed_of_its_own_takes_the_run_s(tiny_dataset: TinyData) -> None:
    eval_args = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
    first, other, named = (
        split_data(build_config(tiny_dataset, "MF", eval_args=eval_args, split_seed=split_seed, seed=seed)).fingerprint
        for split_seed, seed in ((None, 5), (None, 6), (5, 7))
    )
    assert first == named != other
