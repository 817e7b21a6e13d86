"""A BM3 that RecBole's own run has trained, as teacher: its features and its size."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.quick_start import run_recbole

from recbole_kd.cli.run import main
from recbole_kd.integration.safe_load import load_checkpoint
from recbole_kd.pipeline.result_table import result_table
from recbole_kd.teacher.load import load_teacher
from tests.support.helpers import SMALL, TinyData, build_case
from tests.support.multimodal import FEATURES, command
from tests.support.runs import results


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trained by RecBole for one epoch, on features that stay on disk."""
    command(tmp_path)  # writes the data and their features
    monkeypatch.setattr(sys, "argv", ["test"])
    given: dict[str, Any] = {
        **SMALL, "data_path": str(tmp_path / "data"), "checkpoint_dir": str(tmp_path / "recbole"), "topk": [5],
        "valid_metric": "NDCG@5",
        "item_features": {"visual": "visual.npy", "text": "text.npy"}, "freeze_features": True,
    }  # fmt: skip
    run_recbole(model="BM3", dataset="tiny", config_dict=given)
    (file,) = (tmp_path / "recbole").glob("BM3-*.pth")
    return file


def taught_by(checkpoint: Path, folder: Path, **changes: str | None) -> list[str]:
    """A run that takes the checkpoint as its teacher."""
    named: dict[str, str | None] = {
        "teacher": None, "teacher_path": str(checkpoint), "teacher.epochs": None, "teacher.embedding_size": None,
        "kd_compare": "False",
        "eval_args.order": None, "eval_args": str(SMALL["eval_args"]),
    }  # fmt: skip
    return [word for word in command(folder, **named, **changes) if word != FEATURES]


def test_its_size_features_and_digests_stand_in_the_result(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(taught_by(checkpoint, tmp_path)) == 0
    result, kept = results(tmp_path)[-1], load_checkpoint(checkpoint)
    assert result["item_features"] == kept["config"]["item_feature_digests"] and set(result["item_features"]) == {
        "visual",
        "text",
    }
    parameters = sum(weight.numel() for weight in kept["state_dict"].values())
    assert (result["teacher"]["parameters"], result["teacher"]["bytes"]) == (parameters, 4 * parameters)
    assert f"{parameters:,}" in capsys.readouterr().out


def test_other_features_than_it_was_trained_on_are_refused(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "data" / "tiny" / "text.npy"
    np.save(path, np.load(path) + 1)
    assert main(taught_by(checkpoint, tmp_path)) == 2
    assert "put the old files back, or train it again" in capsys.readouterr().err


def test_of_a_checkpoint_without_digests_it_is_said_what_was_compared(
    checkpoint: Path, tmp_path: Path, caplog: Any
) -> None:
    kept = torch.load(checkpoint, weights_only=False)
    del kept["config"].final_config_dict["item_feature_digests"]
    torch.save(kept, checkpoint, pickle_protocol=4)
    train = build_case(TinyData(str(tmp_path / "data"), "tiny"), "MF").loaders.train
    with caplog.at_level("WARNING"):
        load_teacher(checkpoint, train)
    assert "has no digest of its item features: the names and widths of visual, text agree" in caplog.text


def test_of_a_saved_teacher_of_unknown_size_the_cells_are_empty() -> None:
    student: dict[str, Any] = {"test": {"ndcg@5": 0.1}, "parameters": 1000, "bytes": 4000, "inference_us_per_user": 2.0}
    for unknown in (0, None):
        teacher = {"test": None, "parameters": unknown, "bytes": unknown, "inference_us_per_user": None}
        table = result_table(
            {
                "model": "MF",
                "kd": "CE",
                "teacher_model": "BM3",
                "teacher": teacher,
                "student": None,
                "distilled": student,
            }
        )
        cells = [line.split()[-2:] for line in table.splitlines()[2:]]
        assert cells == [["-", "0.1000"], ["-", "1,000"], ["4.0", "KB"], ["-", "2"]] and "0 B" not in table
