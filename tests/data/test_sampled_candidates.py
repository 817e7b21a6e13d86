"""Sampled evaluation ranks the same candidates for every model of a run, and workers change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_kd.data.split_and_loaders import make_loaders, split_data
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import SEQUENTIAL, TinyData, build_case, build_config
from tests.support.runs import run

MODES = ("uni5", "pop5")


def candidates(loader: Any) -> list[tuple[int, int]]:
    """All (user, item) pairs that a loader of sampled evaluation asks scores for, in order of the user."""
    found = []
    for interaction, *_ in loader:
        found += list(zip(interaction["user_id"].tolist(), interaction["item_id"].tolist(), strict=True))
    return sorted(found)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("student", "others"), [("MF", ["HSTU", "NeuMF"]), ("SASRec", ["MF", "HSTU", "GRU4Rec"])])
def test_all_models_of_a_run_rank_the_same_items(
    tiny_dataset: TinyData, student: str, others: list[str], mode: str
) -> None:
    sequential = student == "SASRec"
    args = (
        SEQUENTIAL["eval_args"] if sequential else {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user"}
    )
    given = {**(SEQUENTIAL if sequential else {}), "eval_args": {**args, "mode": mode}, "split_seed": 7}
    config = build_config(tiny_dataset, student, **given)
    splits = split_data(config)
    loaders = make_loaders(config, splits)
    expected = {phase: candidates(getattr(loaders, phase)) for phase in ("valid", "test")}
    assert expected["valid"] != expected["test"]
    for name in others:
        name = "HSTUGeneral" if name == "HSTU" and not sequential else name
        np.random.seed(len(name))
        other = make_loaders(build_config(tiny_dataset, name, **given, seed=11), splits)
        for phase in ("valid", "test"):
            assert candidates(getattr(other, phase)) == expected[phase] == candidates(getattr(other, phase)), (
                name,
                phase,
            )
    again = split_data(build_config(tiny_dataset, student, **{**given, "split_seed": 8}))
    assert candidates(make_loaders(config, again).test) != expected["test"]


@pytest.mark.parametrize("mode", MODES)
def test_the_items_are_none_that_the_user_has_and_numpy_is_left_alone(tiny_dataset: TinyData, mode: str) -> None:
    case = build_case(
        tiny_dataset,
        "MF",
        eval_args={"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user", "mode": mode},
    )
    seen: dict[int, set[int]] = {}
    for part in case.splits.parts:
        for user, item in zip(part.inter_feat["user_id"].tolist(), part.inter_feat["item_id"].tolist(), strict=True):
            seen.setdefault(user, set()).add(item)
    held_out = case.splits.parts[2].inter_feat
    positives = set(zip(held_out["user_id"].tolist(), held_out["item_id"].tolist(), strict=True))
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    found = candidates(case.loaders.test)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[arg-type]
    drawn = [(user, item) for user, item in found if (user, item) not in positives]
    assert len(drawn) == 5 * len(positives) and all(item not in seen[user] for user, item in drawn)


def test_one_model_has_one_score(tiny_dataset: TinyData) -> None:
    case = build_case(
        tiny_dataset,
        "MF",
        eval_args={"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user", "mode": "uni5"},
    )
    trainer = KDTrainer(case.config, case.model)
    trainer.eval_collector.data_collect(case.loaders.train)
    scores = [trainer.evaluate(case.loaders.test, load_best_model=False) for _ in range(3)]
    case.config["eval_batch_size"] = 7
    scores.append(trainer.evaluate(make_loaders(case.config, case.splits).test, load_best_model=False))
    assert scores[0] == scores[1] == scores[2] == scores[3]


def test_workers_change_no_training_and_no_cache_entry(tmp_path: Path) -> None:
    keys = ("--eval_args.mode=uni5", "--kd_compare=False")
    first = run(tmp_path, *keys)
    torch.manual_seed(5)
    second = run(tmp_path, *keys, "--worker=2")
    assert second["teacher"]["cached"] and second["distilled"]["kd_loss"] == first["distilled"]["kd_loss"]
    assert (
        second["distilled"]["test"] == first["distilled"]["test"]
        and second["distilled"]["history"] == first["distilled"]["history"]
    )
