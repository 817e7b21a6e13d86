"""A model of one's own is known by its source."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from recbole.model.general_recommender import BPR

from recbole_kd.integration import register as registration
from recbole_kd.model.mf import MF
from recbole_kd.storage.source_digest import own_source
from tests.support.runs import run

SOURCE = """
from recbole.model.general_recommender import BPR

class EditedBPR(BPR):
    def __init__(self, config, dataset):
        config["embedding_size"] = 8
        super().__init__(config, dataset)
        self.user_embedding.weight.data.mul_({factor})
"""


def test_of_recboles_and_our_classes_nothing_is_asked() -> None:
    assert own_source(BPR) is None and own_source(MF) is None


def test_a_class_without_a_file_counts_by_its_code() -> None:
    def made(text: str) -> type:
        names: dict[str, type] = {}
        exec(
            f"class Own:\n    __module__ = 'own'\n    def score(self):\n        return [x * {text} for x in (1, 2)]",
            names,
        )
        return names["Own"]

    assert own_source(made("2.0")) == own_source(made("2.0")) is not None
    assert own_source(made("2.0")) != own_source(made("3.0"))


@pytest.mark.usefixtures("own_models")
def test_an_edited_model_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module, cached = None, []
    for factor in ("1.0", "0.5", "0.5"):
        (tmp_path / "own_model_of_a_user.py").write_text(SOURCE.format(factor=factor))
        importlib.invalidate_caches()
        module = importlib.import_module("own_model_of_a_user") if module is None else importlib.reload(module)
        registration.register([module.EditedBPR])
        cached.append(
            run(tmp_path, teacher="EditedBPR", **{"teacher.epochs": "1", "teacher.embedding_size": None})["teacher"][
                "cached"
            ]
        )
    assert cached == [False, False, True]
