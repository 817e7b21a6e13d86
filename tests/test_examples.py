"""The examples in the docstrings of the public functions and classes give what they show."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.config import Config
from recbole.model.general_recommender import BPR
from recbole.utils import get_model

import recbole_kd
from tests.support.helpers import TinyData

PUBLIC = (
    "KDTrainer", "Scorer", "build_distiller", "load_teacher", "prepare_data", "register_model", "run_recbole_kd",
    "teacher_from_lists",
)  # fmt: skip


@pytest.fixture(scope="module")
def namespace(tiny_dataset: TinyData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names that the examples use: a small configuration, and the teacher of a run on it."""
    folder = tmp_path_factory.mktemp("examples")
    keys = {
        "data_path": tiny_dataset.data_path, "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "epochs": 1, "embedding_size": 4, "kd_k": 5, "kd_n_samples": 5, "kd_candidates": 10,
        "topk": [10], "valid_metric": "NDCG@10", "state": "ERROR", "show_progress": False,
        "checkpoint_dir": str(folder / "saved"),
    }  # fmt: skip
    places = {"cache_dir": str(folder / "cache"), "output_dir": str(folder / "saved"), "teacher.epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["example.py"])  # RecBole's Config reads the command line
        config = Config(model="MF", dataset="tiny", config_dict={**keys, "kd": "RCEKD"})
    result = recbole_kd.run_recbole_kd("MF", "LightGCN", "RCEKD", "tiny", config_dict={**keys, **places})
    return {
        "recbole_kd": recbole_kd, "torch": torch, "Config": Config, "Path": Path, "BPR": BPR, "get_model": get_model,
        "config": config, "keys": {**keys, **places}, "teacher_path": result["teacher"]["path"],
    }  # fmt: skip


@pytest.mark.usefixtures("own_models")
@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_public_name_runs(
    name: str, namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["example.py"])
    found = doctest.DocTestFinder(recurse=False).find(getattr(recbole_kd, name), name, globs=dict(namespace))
    (example,) = found
    assert len(example.examples) >= 3
    failures, _ = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(example)
    assert failures == 0, f"the example of recbole_kd.{name} gives something else, see the output"
