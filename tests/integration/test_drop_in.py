"""What the documentation says of an existing RecBole project: its sequential script, and a model class of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import recbole_kd
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.scoring.vector_models import vectors
from tests.support import paths
from tests.support.helpers import TinyData, build_case
from tests.support.own_model import OwnModel

PAGE = paths.ROOT / "docs" / "recbole-projects.md"


def test_the_sequential_script_of_the_documentation_runs(
    tiny_dataset: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands there, on other data and smaller."""
    (script,) = (
        block
        for block in PAGE.read_text(encoding="utf-8").split("```python\n")[1:]
        if "SASRec" in block.split("```")[0]
    )
    small = {
        "data_path": tiny_dataset.data_path, "kd_k": 5, "kd_n_samples": 5,
        "kd_candidates": 10, "topk": [5], "valid_metric": "NDCG@5", "state": "ERROR", "show_progress": False,
    }  # fmt: skip
    code = script.split("```")[0].replace("ml-100k", tiny_dataset.name).replace("keys |= {", "keys |= {**small, ")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script.py"])
    found: dict[str, Any] = {"small": small}
    exec(compile(code, PAGE.name, "exec"), found)
    (loss,) = found["trainer"].kd_loss
    assert (
        loss > 0
        and found["teacher"].name == "SASRec"
        and [len(list(Path(place).glob("SASRec-*.pth"))) for place in ("saved/teacher", "saved")] == [1, 1]
    )


@pytest.fixture
def own_model(own_models: None) -> None:
    """OwnModel, registered for one test."""
    recbole_kd.integration.register.register([OwnModel])


@pytest.mark.usefixtures("own_model")
def test_a_model_of_ones_own_is_student_and_teacher(tiny_dataset: TinyData, tmp_path: Path) -> None:
    given = {
        "data_path": tiny_dataset.data_path, "epochs": 1, "embedding_size": 4, "show_progress": False, "state": "ERROR",
        "kd_k": 5, "kd_n_samples": 5, "kd_candidates": 10, "own_scale": 2.0, "allow_unknown": "own_scale",
        "cache_dir": str(tmp_path / "cache"), "output_dir": str(tmp_path / "saved"),
        "teacher_config": {"epochs": 1, "embedding_size": 16},
    }  # fmt: skip
    result = recbole_kd.run_recbole_kd("OwnModel", "OwnModel", "RCEKD", tiny_dataset.name, config_dict=given)
    assert (
        result["distilled"]["kd_loss"][0] > 0
        and result["teacher"]["parameters"] == 4 * result["distilled"]["parameters"]
    )


@pytest.mark.usefixtures("own_model")
def test_one_line_says_that_its_score_is_a_dot_product(tiny_dataset: TinyData) -> None:
    model = build_case(tiny_dataset, "OwnModel", own_scale=2.0).model
    users = torch.arange(1, 6)
    plain = Scorer(model)
    recbole_kd.scoring.vector_models.vectors.register(
        OwnModel, lambda model: (model.scale * model.people.weight, model.things.weight)
    )
    with_vectors = Scorer(model)
    assert (
        not plain.has_vectors
        and with_vectors.has_vectors
        and vectors.dispatch(OwnModel) is not vectors.dispatch(object)
    )
    assert torch.allclose(plain.full(users), with_vectors.full(users), atol=1e-6)
