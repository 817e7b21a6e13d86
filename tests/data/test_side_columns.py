"""Columns and files beside users and items are part of what a kept model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_kd.data.side_information import named_files
from recbole_kd.data.split_and_loaders import split_data
from tests.support.helpers import TinyData, build_config, write_tiny
from tests.support.runs import run

COLUMNS = "{inter: [user_id, item_id, timestamp], item: [item_id, class]}"


def write_classes(folder: Path, step: int) -> None:
    lines = [f"i{item}\tc{item % step}" for item in range(40)]
    (folder / "tiny.item").write_text("\n".join(["item_id:token\tclass:token_seq", *lines]) + "\n", encoding="utf-8")


def test_a_model_of_item_columns_is_trained_again_when_they_change(tmp_path: Path) -> None:
    folder = Path(write_tiny(tmp_path / "data", "tiny").data_path) / "tiny"
    changes = dict.fromkeys(("teacher.embedding_size", "embedding_size", "kd_n_samples", "kd_candidates"))
    changes |= {"kd": "CE", "teacher.epochs": "1", "epochs": "1", "load_col": COLUMNS, "eval_args.order": None}  # type: ignore[dict-item]
    for key, value in {"n_layers": "1", "hidden_size": "8", "inner_size": "8", "MAX_ITEM_LIST_LENGTH": "10"}.items():
        changes |= {key: value, f"teacher.{key}": value}  # type: ignore[dict-item]
    cached = []
    for step in (3, 4, 4):
        write_classes(folder, step)
        result = run(
            tmp_path, **changes, model="SASRecF", teacher="SASRecF", setting="sequential", selected_features="[class]"
        )
        cached.append((result["teacher"]["cached"], result["student"]["cached"]))
    assert cached == [(False, False), (False, False), (True, True)]


def side_of(data: TinyData, **given: Any) -> str | None:
    return split_data(build_config(data, "MF", **given)).side


def rated(folder: Path, rows: list[str]) -> TinyData:
    (folder / "rated").mkdir(parents=True)
    text = "\n".join(["user_id:token\titem_id:token\trating:float", *rows]) + "\n"
    (folder / "rated" / "rated.inter").write_text(text, encoding="utf-8")
    return TinyData(str(folder), "rated")


def test_columns_of_interactions_count(tmp_path: Path) -> None:
    rows = [f"u{user}\ti{item}\t{(user + item) % 5}" for user in range(6) for item in range(12)]
    other = [*rows[:-1], "u5\ti11\t4.5"]
    split = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
    given = {"load_col": {"inter": ["user_id", "item_id", "rating"]}, "eval_args": split}
    first, second, third = (
        side_of(rated(tmp_path / str(n), lines), **given) for n, lines in enumerate((rows, rows, other))
    )
    assert first == second != third
    assert (
        side_of(TinyData(str(tmp_path / "0"), "rated"), load_col={"inter": ["user_id", "item_id"]}, eval_args=split)
        is None
    )


def test_preloaded_vectors_count(tmp_path: Path) -> None:
    data = write_tiny(tmp_path, "tiny")
    found = []
    for value in (1, 1, 2):
        lines = [f"i{item}\t{value} {item}" for item in range(40)]
        text = "\n".join(["vector_id:token\tvector:float_seq", *lines]) + "\n"
        (tmp_path / "tiny" / "tiny.vectors").write_text(text, encoding="utf-8")
        given = {
            "load_col": {"inter": ["user_id", "item_id", "timestamp"], "vectors": ["vector_id", "vector"]},
            "additional_feat_suffix": ["vectors"],
            "alias_of_item_id": ["vector_id"], "preload_weight": {"vector_id": "vector"},
        }  # fmt: skip
        found.append(side_of(data, **given))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("key", ["mf_pretrain_path", "pre_model_path"])
def test_files_that_keys_name_count_by_what_they_hold(key: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    found = []
    for seed in (0, 0, 1):
        np.random.default_rng(seed).random(4).tofile(file)
        found.append(named_files({key: str(file), "embedding_size": 4, "dataset": "tiny"}))
    assert found[0] == found[1] != found[2] and list(found[0]) == [key]
    assert named_files({key: None}) == named_files({key: ""}) == named_files({key: str(tmp_path)}) == {}
