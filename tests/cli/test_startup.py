"""Answers that need neither RecBole nor PyTorch come without them, and say the same as with them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import recbole.data.dataset
from recbole.model.abstract_recommender import (
    ContextRecommender,
    GeneralRecommender,
    KnowledgeRecommender,
    SequentialRecommender,
)

from recbole_kd.config.model_catalogue import OWN_DISTILLATION, ListedModel, listed_models, recbole_model_names
from recbole_kd.config.property_layers import layers, public_name
from recbole_kd.config.request_names import check_typing
from recbole_kd.config.schema import KD_RUN_KEYS
from recbole_kd.distiller.methods import DISTILLERS, NO_METHOD
from recbole_kd.distiller.registry import distiller_class, distiller_options
from recbole_kd.errors import ConfigError
from recbole_kd.integration import register
from recbole_kd.pipeline.model_choices import model_class, model_names, side_models
from recbole_kd.pipeline.request import make_request
from tests.support.paths import ROOT

GIVEN = {"model": "MF", "teacher": "LightGCN", "kd": "RCEKD", "dataset": "ml-100k"}
TYPING_ERRORS: list[dict[str, Any]] = [
    {"model": "MFF"},
    {"teacher": "LightGNC"},
    {"teacher": "MF, LightGNC"},
    {"kd": "RCEK"},
    {"kd": None},
    {"seed": [0, 1]},
    {"lerning_rate": 0.1},
    {"teacher_embedding_size": 8},
    {"kd_kk": 5},
    {"lr": 0.1},
]
WORDS = [
    [],
    ["--help"],
    ["run", "--help"],
    ["list"],
    ["lisst"],
    ["--model=MFF", "--teacher=LightGCN", "--kd=RCEKD", "--dataset=ml-100k"],
    ["--model=MF", "--teacher=LightGCN", "--kd=RCEKD", "--dataset=ml-100k", "--kd_kk=5"],
]


@pytest.fixture(autouse=True)
def only_shipped_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program starts without the models that other tests of this process registered."""
    monkeypatch.setattr(register, "_registered", {})


def test_a_list_a_help_and_a_typing_error_import_neither_recbole_nor_torch() -> None:
    code = f"""
import sys
from recbole_kd.cli.program import main
for words in {WORDS}:
    main(words)
    print("LOADED", [name for name in ("torch", "recbole", "pandas", "scipy", "ray") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    loaded = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert loaded == ["LOADED []"] * len(WORDS), done.stderr
    assert done.stderr.count("error: ") == 3 and "Traceback" not in done.stderr


def listed_by_class() -> Iterator[ListedModel]:
    for setting, family in (("general", GeneralRecommender), ("sequential", SequentialRecommender)):
        for name in model_names():
            try:
                found = model_class(name, "model", setting)
            except (ConfigError, ImportError):
                continue
            if issubclass(found, family) and public_name(name) == name:
                lines = (found.__doc__ or "").strip().splitlines()
                yield ListedModel(name, setting, lines[0].strip() if lines else "")
    for name in set(side_models()) - {OWN_DISTILLATION}:
        found = model_class(name, "teacher")
        family = "knowledge" if issubclass(found, KnowledgeRecommender) else "context"
        assert issubclass(found, KnowledgeRecommender | ContextRecommender)
        yield ListedModel(name, family, (found.__doc__ or "").strip().partition("\n")[0].strip())


def test_the_list_of_models_is_that_of_the_classes() -> None:
    assert set(listed_models()) == set(listed_by_class())
    assert recbole_model_names() == set(model_names())
    own = {model.name for model in listed_models() if hasattr(recbole.data.dataset, f"{model.name}Dataset")}
    assert own == {"HSTU"}


@pytest.mark.parametrize("name", sorted(DISTILLERS))
def test_a_methods_property_file_has_all_its_keys(name: str) -> None:
    keys = {f"kd_{option}" for option in distiller_options(distiller_class(name))}
    assert keys == {key for key in layers(f"distiller/{name}")[0] if key.startswith("kd_")} - set(KD_RUN_KEYS)


@pytest.mark.parametrize("change", TYPING_ERRORS, ids=str)
def test_an_early_error_is_that_of_the_whole_check(change: dict[str, Any]) -> None:
    values = {**GIVEN, **change}
    with pytest.raises(ConfigError) as early:
        check_typing(values, DISTILLERS, NO_METHOD)
    with pytest.raises(ConfigError) as late:
        make_request(values)
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize(
    "change",
    [{}, {"kd": "RCEKD+DE"}, {"kd": "none"}, {"kd": "own:Method"}, {"allow_unknown": "x", "x": 1}],
    ids=str,
)
def test_what_is_no_typing_error_is_left_to_the_whole_check(change: dict[str, Any]) -> None:
    check_typing({**GIVEN, **change}, DISTILLERS, NO_METHOD)
