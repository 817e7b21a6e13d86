"""A distilled student is read and tested by RecBole's own tools."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recbole.quick_start import load_data_and_model
from recbole.trainer import Trainer
from recbole.utils.case_study import full_sort_topk

from recbole_kd.data.split_and_loaders import split_data
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import TinyData, build_config, dataset_of
from tests.support.runs import SHORT, run

RANDOM = "--eval_args={split: {RS: [0.8, 0.1, 0.1]}, order: RO, group_by: user, mode: full}"


@pytest.mark.parametrize("seed", [1, 2020])
def test_a_student_of_any_seed_is_tested_on_its_own_split(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.runs.SHORT", [word for word in SHORT if not word.startswith("--eval_args")])
    result = run(tmp_path, RANDOM, "--kd_compare=False", f"--seed={seed}")
    config, model, _, _, _, test = load_data_and_model(result["folder"] / "MF.pth")
    again = Trainer(config, model).evaluate(test, load_best_model=False)
    assert dict(again) == pytest.approx(result["distilled"]["test"])


def test_a_student_of_the_paper_s_protocol_is_tested_by_it(tmp_path: Path) -> None:
    result = run(tmp_path, "--eval_protocol=paper", "--kd_compare=False")
    config, model, _, _, _, test = load_data_and_model(result["folder"] / "MF.pth")
    assert dict(KDTrainer(config, model).evaluate(test, load_best_model=False)) == pytest.approx(
        result["distilled"]["test"]
    )


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "HSTU"])
@pytest.mark.parametrize("columns", ["[user_id, item_id, timestamp]", "[user_id, item_id]"])
def test_a_sequential_student_is_tested_on_its_own_rows(
    tmp_path: Path, model: str, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With times, and in the order of the file, which RecBole's own data set cannot read."""
    dropped = ("--eval_args", "--embedding_size", "--load_col", "--kd_n", "--kd_c")
    monkeypatch.setattr("tests.support.runs.SHORT", [word for word in SHORT if not word.startswith(dropped)])
    more = (f"--load_col={{inter: {columns}}}", *(() if "time" in columns else ("--TIME_FIELD=place",)))
    result = run(tmp_path, *more, "--kd_compare=False", model=model, kd="CE", teacher="LightGCN")
    config, student, dataset, _, _, test = load_data_and_model(result["folder"] / f"{model}.pth")
    assert dict(Trainer(config, student).evaluate(test, load_best_model=False)) == pytest.approx(
        result["distilled"]["test"]
    )
    users = dataset.token2id(dataset.uid_field, ["u1", "u2"])
    _, items = full_sort_topk(users, student, test, k=3, device=config["device"])
    rows = dataset_of(test).inter_feat
    asked = torch.stack(
        [student.full_sort_predict(rows[(rows[dataset.uid_field] == user).nonzero()[0]]).view(-1) for user in users]
    )
    asked[:, 0] = -torch.inf
    assert torch.equal(items, asked.topk(3).indices)


def test_a_split_without_a_seed_of_its_own_takes_the_run_s(tiny_dataset: TinyData) -> None:
    eval_args = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
    first, other, named = (
        split_data(build_config(tiny_dataset, "MF", eval_args=eval_args, split_seed=split_seed, seed=seed)).fingerprint
        for split_seed, seed in ((None, 5), (None, 6), (5, 7))
    )
    assert first == named != other
