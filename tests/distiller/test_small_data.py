"""Defaults that are larger than the data are cut; what a user gave is refused instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_kd.config.property_layers import distiller_layers
from recbole_kd.distiller.registry import distiller_class
from recbole_kd.distiller.small_data import cut_defaults, words_of_cut
from recbole_kd.errors import ConfigError
from recbole_kd.training.build_distiller import RUN_DEFAULTS, check_distiller
from tests.support.method_cases import METHODS
from tests.support.runs import main, words

PUBLISHED = ["RCEKD+RRD"]


@pytest.mark.parametrize("n_items", [3, 40, 25_000])
@pytest.mark.parametrize("name", [*METHODS, *PUBLISHED])
def test_the_defaults_of_every_method_fit_small_data(name: str, n_items: int) -> None:
    defaults = {**RUN_DEFAULTS, **distiller_layers(name, "own", "MF", "MF")[0]}
    cut = cut_defaults(distiller_class(name), defaults, (), 30, n_items)
    check_distiller(name, {**defaults, **{key: limit for key, (_, limit, _) in cut.items()}}, 30, n_items)
    assert all(1 <= limit < value and defaults[key] == value for key, (value, limit, _) in cut.items())
    if n_items == 25_000:
        assert not cut and not words_of_cut(cut)


def test_an_option_follows_the_one_that_bounds_it() -> None:
    defaults = distiller_layers("RRD", "own", "MF", "MF")[0]
    cut = cut_defaults(distiller_class("RRD"), {**defaults, "kd_candidates": 20}, ["kd_candidates"], 30, 40)
    assert cut == {"kd_k": (100, 20, "kd_candidates"), "kd_n_samples": (200, 40, "the number of items")}
    assert words_of_cut(cut).endswith("kd_n_samples=200 to 40 (the number of items), kd_k=100 to 20 (kd_candidates)")


def test_an_option_keeps_its_proportion_to_one_that_is_cut() -> None:
    cut = cut_defaults(distiller_class("DCD"), distiller_layers("DCD", "own", "MF", "MF")[0], (), 30, 40)
    assert cut["kd_candidates"][:2] == (500, 40) and cut["kd_k"][:2] == (100, 8)


def test_what_the_user_gave_is_refused() -> None:
    defaults = {**RUN_DEFAULTS, **distiller_layers("RRD", "own", "MF", "MF")[0]}
    cut = cut_defaults(distiller_class("RRD"), defaults, ["kd_candidates"], 30, 40)
    assert "kd_candidates" not in cut
    values = {**defaults, **{key: limit for key, (_, limit, _) in cut.items()}}
    with pytest.raises(ConfigError, match="Invalid --kd_candidates=500: expected an integer from 1 to 40"):
        check_distiller("RRD", values, 30, 40)


def test_a_run_on_small_data_says_what_was_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"kd": "RRD", "kd_k": None, "kd_n_samples": None, "kd_candidates": None, "kd_compare": "False"}
    assert main(words(tmp_path, **given)) == 0
    out, err = capsys.readouterr()
    assert (out + err).count("kd_candidates=500 to 40 (the number of items)") == 1
    (path,) = (tmp_path / "saved").glob("*/result.json")
    result = json.loads(path.read_text())
    assert result["distilled"]["kd_loss"] and result["kd_options"]["kd_candidates"] == 40
