"""The help of one method, and what is said about a word that nobody knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli.program import main
from recbole_kd.config.key_comments import key_comments
from recbole_kd.config.property_layers import properties_dir
from recbole_kd.distiller.registry import DISTILLERS
from recbole_kd.errors import ConfigError
from recbole_kd.pipeline.request import make_request
from recbole_kd.training.build_distiller import known_kd_keys

RUN: dict[str, Any] = {"model": "MF", "teacher": "LightGCN", "kd": "RCEKD", "dataset": "ml-100k"}


@pytest.mark.parametrize("name", sorted(DISTILLERS))
def test_the_help_of_a_method_has_each_of_its_keys(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{name}: ")
    shown = [line.split()[0].removeprefix("--") for line in lines if line.startswith("  --kd_")]
    assert sorted(shown) == sorted(known_kd_keys(name))
    assert max(map(len, lines)) <= 120


def test_the_help_has_default_type_and_meaning_of_the_property_file(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["run", "--help", "rcekd"], ["run", "RCEKD", "-h"], ["--kd=RCEKD", "--help"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert "--kd_beta                      3.0            (float) beta of gamma = exp(-beta * overlap)." in out
        assert "RCEKD-ml-100k-MF-LightGCN" in out and "properties/tune/RCEKD.yaml" in out


def test_every_key_of_a_methods_file_has_a_comment() -> None:
    from recbole_kd.config.property_layers import layers

    for name in DISTILLERS:
        path = properties_dir() / "distiller" / f"{name}.yaml"
        assert {key.key for key in key_comments(path) if key.meaning and key.kind} == set(
            layers(f"distiller/{name}")[0]
        )


def test_a_comment_is_split_into_type_and_meaning(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("# Title.\nkd_a: [1, 2]   # (list) Of 'x' # y.\nkd_b: ~ # No type.\nkd_c: 3\n")
    first, second = key_comments(path)
    assert (first.key, first.default, first.kind, first.meaning) == ("kd_a", "[1, 2]", "list", "Of 'x' # y.")
    assert (second.key, second.default, second.kind, second.meaning) == ("kd_b", "~", "", "No type.")


def test_the_help_of_an_unknown_method_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help", "RCKD"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Unknown kd 'RCKD'" in line and "did you mean 'RCEKD'" in line


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("teacher_embedding_size", "did you mean 'teacher.embedding_size'.*--teacher.embedding_size=..."),
        ("student.epochs", "did you mean 'epochs'"),
        ("student_learning_rate", "did you mean 'learning_rate'"),
        ("learning_rte", "did you mean 'learning_rate'"),
        ("lr", "did you mean 'learning_rate'"),
        ("patience", "did you mean 'stopping_step'"),
        ("kd_lambda", "did you mean 'kd_weight'"),
        ("saved", "Unknown key 'saved': each run keeps its student"),
        ("save_model", "Unknown key 'save_model': each run keeps its student"),
    ],
)
def test_an_unknown_key_gets_the_one_that_is_meant(key: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_request({**RUN, key: "1"})


@pytest.mark.parametrize(
    ("key", "value", "typed"),
    [
        ("seed", [1, 2, 3], "compare --seed=1,2,3"),
        ("seed", "1,2", "compare --seed=1,2"),
        ("kd", "RCEKD,RRD", "compare --kd=RCEKD,RRD"),
        ("kd", ["RCEKD", "CE"], "compare --kd=RCEKD,CE"),
    ],
)
def test_several_methods_or_seeds_for_one_run_name_the_verb_compare(key: str, value: Any, typed: str) -> None:
    with pytest.raises(ConfigError, match=f"Invalid --{key}=.*recbole-kd {typed}, "):
        make_request({**RUN, key: value})


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["tune", "--max_eval=3", "--model=MF"], "--max_evals=..."),
        (["compare", "--budgt=8", "--model=MF"], "--budget=..."),
        (["cache", "list", "--older_then=3"], "did you mean --older_than?"),
        (["benchmrk"], "`recbole-kd benchmark`"),
    ],
)
def test_a_verbs_own_word_gets_the_nearest(words: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert meant in line
