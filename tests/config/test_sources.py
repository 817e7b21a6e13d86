"""Sources of keys, merged: what a later one says of a mapping, and keys of one's own whose names look like ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_arguments
from recbole_kd.errors import ConfigError
from recbole_kd.pipeline.request import make_request
from recbole_kd.pipeline.training_entries import settings_alone, settings_of
from tests.support.runs import refusal, words


def merged(folder: Path, *sources: str, arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of some YAML texts, one file each, and a command line."""
    files = []
    for number, text in enumerate(sources):
        (folder / f"{number}.yaml").write_text(text, encoding="utf-8")
        files.append(str(folder / f"{number}.yaml"))
    return merge_sources(files, None, parse_arguments(arguments))


@pytest.mark.parametrize(
    ("sources", "arguments", "expected"),
    [
        (("train_neg_sample_args: ~",), (), {"train_neg_sample_args": None}),
        ((), ("--train_neg_sample_args=~",), {"train_neg_sample_args": None}),
        (("train_neg_sample_args: {sample_num: 3}",), ("--train_neg_sample_args=~",), {"train_neg_sample_args": None}),
        (("eval_args: {order: RO}", "eval_args: ~"), (), {"eval_args": None}),
        (
            ("train_neg_sample_args: ~",),
            ("--train_neg_sample_args.sample_num=2",),
            {"train_neg_sample_args": {"sample_num": 2}},
        ),
        (
            ("eval_args: {order: RO, mode: full}",),
            ("--eval_args.order=TO",),
            {"eval_args": {"order": "TO", "mode": "full"}},
        ),
        (("eval_args: {order: RO}", "eval_args: {mode: full}"), (), {"eval_args": {"order": "RO", "mode": "full"}}),
        (("eval_args: {order: RO}", "seed: 1"), (), {"eval_args": {"order": "RO"}, "seed": 1}),
        (
            ("teacher_config: {epochs: 3, train_neg_sample_args: {sample_num: 2}}",),
            ("--teacher.train_neg_sample_args.alpha=1",),
            {"teacher_config": {"epochs": 3, "train_neg_sample_args": {"sample_num": 2, "alpha": 1}}},
        ),
        (
            ("teacher_config: {train_neg_sample_args: {sample_num: 2}}",),
            ("--teacher.train_neg_sample_args=~",),
            {"teacher_config": {"train_neg_sample_args": None}},
        ),
        (("teacher_config: {epochs: 3}", "teacher_config: ~"), (), {"teacher_config": {}}),
    ],
)
def test_a_later_source_keeps_or_empties_a_mapping(
    tmp_path: Path, sources: tuple[str, ...], arguments: tuple[str, ...], expected: dict[str, Any]
) -> None:
    assert merged(tmp_path, *sources, arguments=arguments) == expected


def test_an_empty_eval_args_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, tmp_path, "--eval_args=~", **{"eval_args.order": None})
    assert "Invalid --eval_args=~: expected a mapping" in said


def test_no_negatives_reach_the_model(tmp_path: Path) -> None:
    given = merge_sources(None, None, parse_arguments([*words(tmp_path), "--train_neg_sample_args=~"]))
    assert make_request(given).student_config()[0]["train_neg_sample_args"]["distribution"] == "none"


def test_keys_of_ones_own_reach_the_model_and_the_digest(tmp_path: Path) -> None:
    mine = {"kdim": 3, "teacher_forcing": 0.5, "MODEL_DEPTH": 2}
    given = merge_sources(None, {**mine, "allow_unknown": list(mine)}, parse_arguments(words(tmp_path)))
    request = make_request(given)
    for config, _ in (request.student_config(), request.distilled_config("LightGCN")):
        assert {key: config[key] for key in mine} == mine
        assert {key: settings_of(config)[key] for key in mine} == mine
    assert {key: settings_alone(request.student_config()[0])[key] for key in mine} == mine
    assert not {"kd_k", "kd_weight", "teacher_store", "kd"} & set(settings_alone(request.student_config()[0]))


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--teacher_embedding_size=8", "--teacher.embedding_size=..."),
        ("--teacher_epochs=8", "--teacher.epochs=..."),
        ("--teacher.svd=8", "--teacher_svd=..."),
        ("--teacher.embeding_size=8", "--teacher.embedding_size=..."),
        ("--embeding_size=8", "--embedding_size=..."),
    ],
)
def test_a_key_under_the_wrong_prefix_is_recognised(word: str, meant: str, tmp_path: Path) -> None:
    given = merge_sources(None, None, parse_arguments([*words(tmp_path), word]))
    with pytest.raises(ConfigError) as caught:
        make_request(given)
    assert meant in str(caught.value)
