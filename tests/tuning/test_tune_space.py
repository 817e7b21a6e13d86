"""Search spaces: both forms of file, what is refused, and those that ship."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli import tune
from recbole_kd.cli.tune import find_space, search_options
from recbole_kd.config.property_layers import distiller_layers, properties_dir
from recbole_kd.distiller.registry import DISTILLERS
from recbole_kd.errors import ConfigError
from recbole_kd.training.build_distiller import check_distiller
from recbole_kd.tuning.space import Parameter, Space, check_space, read_space

SHIPPED = sorted((properties_dir() / "tune").glob("*"))
BASE = {"model": "MF", "teacher": "LightGCN", "dataset": "ml-100k"}


def written(folder: Path, text: str, name: str = "space.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_every_method_has_a_space() -> None:
    own = {path.stem for path in SHIPPED if path.suffix == ".yaml"} - {"any"}
    assert own <= set(DISTILLERS) and len(own) >= 18
    assert [path.name for path in SHIPPED if path.suffix == ".hyper"] == ["RCEKD.hyper"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_space_names_known_keys_with_allowed_values(path: Path) -> None:
    space, kd = read_space(path), "CE" if path.stem == "any" else path.stem
    check_space(space, {**BASE, "kd": kd, **({"teacher": "BM3"} if kd == "PromptMM" else {})})
    values = {
        "kd_weight": 1.0,
        "kd_refresh": 1,
        "kd_compare": True,
        **distiller_layers(kd, "citeulike", "MF", "MF")[0],
        **space.fixed,
    }
    alone = {p.key: p.values[0] for p in space.parameters if len(p.values) == 1}
    for parameter in space.parameters:
        for value in parameter.examples:
            check_distiller(kd, {**values, **alone, parameter.key: value}, 5000, 25000)


def test_a_method_without_a_space_takes_that_of_any(monkeypatch: pytest.MonkeyPatch) -> None:
    options, base = search_options({**BASE, "kd": "mine.module:Mine"})
    monkeypatch.setattr(tune, "check_space", lambda space, base: None)
    assert {parameter.key for parameter in find_space(options, base).parameters} == {"learning_rate", "kd_weight"}


def test_the_grid_of_the_paper_is_the_same_in_both_forms() -> None:
    """Appendix C.1: 2 learning rates, 3 weight decays, 6 betas, 9 lambdas, 5 K, 5 L."""
    yaml, hyper = (read_space(properties_dir() / "tune" / f"RCEKD.{end}") for end in ("yaml", "hyper"))
    listed = {p.key: p.values for p in yaml.parameters}
    assert math.prod(len(values) for values in listed.values()) == 8100
    assert {**listed, "kd_candidates": ("all",)} == {p.key: p.values for p in hyper.parameters}


def test_recboles_lines(tmp_path: Path) -> None:
    text = (
        "# a comment\nkd_k choice [5, 10]\n\nlearning_rate loguniform -8, 0\n"
        "kd_beta uniform 1,3\nkd_n_samples quniform 5, 50, 5\n"
    )
    space = read_space(written(tmp_path, text, "a.hyper"))
    assert [(p.key, p.kind, p.values) for p in space.parameters] == [
        ("kd_k", "choice", (5, 10)),
        ("learning_rate", "exponent", (-8, 0)),
        ("kd_beta", "uniform", (1, 3)),
        ("kd_n_samples", "quniform", (5, 50, 5)),
    ]
    assert space.parameters[1].examples == [math.exp(-8), 1.0]
    assert space.settings({"kd_n_samples": 15.0, "kd_beta": 2.0}, "RCEKD") == {"kd_n_samples": 15, "kd_beta": 2.0}


CONDITIONAL = """
kd: {choice: [RCEKD, RRD]}
kd_weight: {loguniform: [0.5, 100]}
epochs: 3
methods:
  RCEKD: {kd_beta: {uniform: [0.5, 9]}, kd_k: {choice: [5, 10]}, kd_tau: 5}
  RRD: {kd_k: {int: [20, 30]}}
"""


def test_what_belongs_to_another_method_has_no_say(tmp_path: Path) -> None:
    space = read_space(written(tmp_path, CONDITIONAL))
    check_space(space, BASE)
    assert space.methods(None) == ["RCEKD", "RRD"]
    drawn = {"kd_weight": 2.0, "RCEKD:kd_beta": 3.0, "RCEKD:kd_k": 5, "RCEKD:kd_tau": 5, "RRD:kd_k": 25}
    assert space.settings({**drawn, "kd": "RRD"}, None) == {"epochs": 3, "kd": "RRD", "kd_weight": 2.0, "kd_k": 25}
    assert space.settings({**drawn, "kd": "RCEKD"}, None) == {
        "epochs": 3, "kd": "RCEKD", "kd_weight": 2.0, "kd_beta": 3.0, "kd_k": 5, "kd_tau": 5,
    }  # fmt: skip


def test_settings_that_a_trial_may_have(tmp_path: Path) -> None:
    text = "kd_k: {choice: [50, 5]}\nkd_weight: {uniform: [1, 2]}\nmethods:\n  RRD: {kd_n_samples: 7}\nseed: 3\n"
    space = read_space(written(tmp_path, text))
    assert list(space.trials_of("CE")) == [
        {"seed": 3, "kd": "CE", "kd_k": k, "kd_weight": w} for k, w in ((50, 1), (5, 2))
    ]
    assert [found["kd_n_samples"] for found in space.trials_of("RRD")] == [7, 7]
    assert list(Space([], {"seed": 3}).trials_of("CE")) == [{"seed": 3, "kd": "CE"}]


def test_a_grid_has_each_combination_once(tmp_path: Path) -> None:
    text = "kd: {grid: [RCEKD, RRD]}\nmethods: {RCEKD: {kd_beta: {grid: [1, 3]}}, RRD: {kd_k: {grid: [20, 30, 40]}}}\n"
    grid = read_space(written(tmp_path, text)).grid(None)
    assert grid == [
        {"kd": "RCEKD", "RCEKD:kd_beta": 1},
        {"kd": "RCEKD", "RCEKD:kd_beta": 3},
        {"kd": "RRD", "RRD:kd_k": 20},
        {"kd": "RRD", "RRD:kd_k": 30},
        {"kd": "RRD", "RRD:kd_k": 40},
    ]
    assert Space([Parameter("kd_k", "choice", (1,))]).grid("RCEKD") == [{}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kd_k: {chioce: [1]}", "Unknown distribution of kd_k in .* 'chioce'.*did you mean 'choice'"),
        ("kd_k: {choice: [1], uniform: [0, 1]}", "kd_k of .* has 2 distributions"),
        ("kd_k: {choice: 5}", "kd_k of .*: 5 is not a list of values"),
        ("kd_beta: {uniform: [3, 1]}", r"kd_beta of .*: uniform \[3, 1\] is not low and high"),
        ("kd_k: {int: [1.5, 3]}", "is not low and high, whole numbers"),
        ("kd_weight: {loguniform: [0, 1]}", "must begin above 0"),
        ("kd_k: 5", "searches nothing"),
        (
            "kd_k: {choice: [1]}\nmethods: {RCEKD: {kd_k: {choice: [2]}}}",
            "has kd_k for all methods and again below one",
        ),
        ("methods: [RCEKD]", "methods of .* is not a mapping"),
    ],
)
def test_a_wrong_space_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_space(written(tmp_path, text))


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2: 'kd_k pick 5' is not KEY KIND VALUES"):
        read_space(written(tmp_path, "kd_beta uniform 1,3\nkd_k pick 5\n", "a.hyper"))


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("mlp_hidden_size choice ['[8,4]','[4]']", ([8, 4], [4])),
        ("mlp_hidden_size choice [(8,4),(4,)]", ([8, 4], [4])),
        ("mlp_hidden_size choice [[8,4],[4]]", ([8, 4], [4])),
        ("mlp_hidden_size choice ['(8, 4)', '[[1], (2,)]']", ([8, 4], [[1], [2]])),
        ("kd_k choice (3,5)", (3, 5)),
        ("kd_k choice 3,5", (3, 5)),
        ("kd_k choice 3", (3,)),
        ("kd_mask_train choice ['True', 'false', None, 'None']", (True, False, None, None)),
        ('eval_args choice [\'{"order": "RO"}\']', ({"order": "RO"},)),
        ("kd_faithful choice ['code', 'paper']", ("code", "paper")),
        ("kd_faithful choice [code, paper]", ("code", "paper")),
        ("weight_decay choice [1e-3, '1e-5']", (1e-3, 1e-5)),
    ],
)
def test_choices_are_what_recbole_reads(tmp_path: Path, line: str, values: tuple[Any, ...]) -> None:
    (parameter,) = read_space(written(tmp_path, line + "\n", "a.hyper")).parameters
    assert parameter.values == values and [type(v) for v in parameter.values] == [type(v) for v in values]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kd_kk: {choice: [5]}", "Unknown key of the method RCEKD 'kd_kk'.*did you mean 'kd_k'"),
        ("kd_k: {choice: [5, many]}", "Invalid --kd_k=many: expected an integer"),
        ("learning_rate: {uniform: [-1, 1]}", "Invalid --learning_rate=-1: expected a number greater than 0"),
        ("kd_weight: {uniform: [-1, 1]}", "Invalid --kd_weight=-1: expected a number of at least 0"),
        ("teacher.embeding_size: {choice: [8]}", "teacher.embeding_size"),
        (
            "kd_k: {uniform: [10, 50]}",
            r"Invalid --kd_k=34\.7.*: expected an integer.*\{int: \[10, 50\]\} draws integers",
        ),
        ("kd_k: {loguniform: [1, 50]}", r"Invalid --kd_k=11\.2.*: expected an integer"),
        ("epochs: {quniform: [1, 9, 2.5]}", r"Invalid --epochs=5.0: expected an integer"),
        ("teacher.epochs: {uniform: [1, 9]}", r"Invalid --teacher\.epochs=5\.9.*: expected an integer"),
    ],
)
def test_what_a_run_would_refuse_is_refused_before_it(tmp_path: Path, text: str, words: str) -> None:
    base: dict[str, Any] = {**BASE, "kd": "RCEKD"}
    with pytest.raises(ConfigError, match=words):
        check_space(read_space(written(tmp_path, text)), base)
