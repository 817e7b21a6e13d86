"""Keys of other models, which a model does not read, are said."""

from __future__ import annotations

from pathlib import Path

import pytest
from recbole.model.abstract_recommender import GeneralRecommender

from recbole_kd.config.merging import merge_sources
from recbole_kd.config.model_catalogue import recbole_defaults, recbole_folder
from recbole_kd.config.parsing import parse_arguments
from recbole_kd.pipeline.idle_keys import idle_keys, keys_of_models, reads
from recbole_kd.pipeline.plan import make_plan
from recbole_kd.pipeline.request import make_request
from tests.support.runs import words


def said(folder: Path, *more: str, **changes: str | None) -> list[str]:
    """The sentences on a run of these words."""
    return idle_keys(
        make_plan(make_request(merge_sources(None, None, parse_arguments([*words(folder, **changes), *more]))))
    )


def test_a_key_that_neither_student_nor_teacher_reads_is_said(tmp_path: Path) -> None:
    found = said(tmp_path, "--hidden_size=8", "--loss_type=CE", "--teacher.num_layers=3", "--teacher.n_layers=2")
    assert found == [
        "hidden_size=8 has no effect on MF, which does not read it",
        "loss_type=CE has no effect on MF, which does not read it",
        "teacher.num_layers=3 has no effect on the teacher LightGCN, which does not read it",
    ]
    assert said(tmp_path, "--embedding_size=8", "--weight_decay=0.1", "--teacher.n_layers=2", embedding_size=None) == []


def test_a_key_that_is_allowed_is_not_said(tmp_path: Path) -> None:
    assert said(tmp_path, "--hidden_size=8", "--allow_unknown=hidden_size") == []


def test_a_class_without_a_source_file_may_read_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    of_a_notebook = type("Mine", (GeneralRecommender,), {"__module__": "no_such_module"})
    monkeypatch.setattr("recbole_kd.pipeline.idle_keys.get_model", lambda _: of_a_notebook)
    assert reads("Mine", "hidden_size")


def test_keys_of_drawn_negatives_are_said_beside_a_softmax_over_all_items(tmp_path: Path) -> None:
    hstu: dict[str, str | None] = {"model": "HSTU", "teacher": "MF", "n_negatives": "5", "negatives": "shared"}
    found = said(tmp_path, **hstu)
    assert [sentence.partition(" ")[0] for sentence in found] == ["n_negatives=5", "negatives=shared"]
    assert "the loss of HSTU is full_softmax (loss=auto, up to 20,000 items)" in found[0]
    assert said(tmp_path, **hstu, loss="sampled_softmax") == []


def test_every_model_reads_the_keys_of_its_property_file() -> None:
    names = [path.stem for path in (recbole_folder() / "properties" / "model").glob("*.yaml")]
    assert len(names) > 80
    for name in ("SASRec", "NeuMF", "DeepFM", "CKE", "EASE", "SGL"):
        assert name in names and all(reads(name, key) for key in recbole_defaults(name, ""))


@pytest.mark.parametrize(("model", "key"), [("SASRec", "embedding_size"), ("MF", "n_layers"), ("EASE", "hidden_size")])
def test_a_key_of_another_model_is_not_read(model: str, key: str) -> None:
    assert key in keys_of_models() and not reads(model, key)


def test_a_models_base_classes_read_for_it() -> None:
    assert reads("SASRecCPR", "hidden_size") and reads("DeepFM", "embedding_size")  # ContextRecommender's
