"""Every wrong value is one clear error; every value of RecBole's own property files passes."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_kd.config.key_rules import RANKING_METRICS, VALUE_METRICS, check_metrics
from recbole_kd.config.known_keys import RECBOLE_KEYS
from recbole_kd.config.parsing import parse_arguments, read_config_file
from recbole_kd.config.schema import TEACHER_DTYPES, check_values
from recbole_kd.errors import ConfigError
from recbole_kd.teacher.export import DTYPES


def recbole_folder() -> Path:
    """Where RecBole is installed; it is not imported."""
    spec = importlib.util.find_spec("recbole")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


PROPERTIES = recbole_folder() / "properties"
FILES = sorted(path for path in PROPERTIES.rglob("*.yaml") if path.name not in {"url.yaml", "kg_url.yaml"})


def defaults_with(*names: str) -> dict[str, object]:
    merged: dict[str, object] = {}
    for name in ("overall.yaml", "dataset/sample.yaml", *names):
        merged.update(read_config_file(PROPERTIES / name))
    return merged


DEFAULTS = defaults_with("model/LightGCN.yaml")


def check(given: dict[str, object], defaults: dict[str, object], prefix: str = "") -> None:
    check_values(given, defaults, prefix=prefix)
    check_metrics(given, defaults, prefix)


def refused(*argv: str, defaults: dict[str, object] | None = None, prefix: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        check(parse_arguments(argv), DEFAULTS if defaults is None else defaults, prefix=prefix)
    return str(caught.value)


def test_names_that_are_kept_elsewhere_are_the_same() -> None:
    assert tuple(DTYPES) == TEACHER_DTYPES


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PROPERTIES)) for path in FILES])
def test_recbole_own_values_pass(path: Path) -> None:
    values = read_config_file(path)
    check_values(values, {**DEFAULTS, **values})


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_recbole_own_values_pass_without_defaults(path: Path) -> None:
    check_values(read_config_file(path), {})


def test_the_metrics_are_those_of_recbole() -> None:
    tree = ast.parse((recbole_folder() / "evaluator" / "metrics.py").read_text(encoding="utf-8"))
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    value = {name for name, names in bases.items() if "LossMetric" in names}
    assert set(VALUE_METRICS) == value
    assert set(RANKING_METRICS) == set(bases) - value


@pytest.mark.parametrize(
    ("argument", "allowed"),
    [
        ("epochs=abc", "an integer"),
        ("epochs=True", "an integer"),
        ("epochs=~", "an integer"),
        ("epochs=2.5", "an integer"),
        ("epochs=-1", "at least 0"),
        ("learning_rate=fast", "a number"),
        ("learning_rate=True", "a number"),
        ("learning_rate=0", "greater than 0"),
        ("learning_rate=-1e-3", "greater than 0"),
        ("learning_rate=.nan", "greater than 0"),
        ("learning_rate=.inf", "greater than 0"),
        ("weight_decay=-1", "at least 0"),
        ("topk=[ten]", "a list of integers of at least 1"),
        ("topk=ten", "an integer of at least 1 or a list"),
        ("topk=0", "at least 1"),
        ("topk=[10,-5]", "at least 1"),
        ("topk=[True]", "at least 1"),
        ("topk=[]", "at least 1"),
        ("topk=None", "an integer of at least 1 or a list"),
        ("use_gpu=maybe", "True or False"),
        ("use_gpu=1", "True or False. Try --use_gpu=True"),
        ("use_gpu=0", "True or False. Try --use_gpu=False"),
        ("gpu_id=cuda", "-1 is the CPU"),
        ("gpu_id='0,x'", "-1 is the CPU"),
        ("train_batch_size=0", "at least 1"),
        ("eval_batch_size=0", "at least 1"),
        ("eval_step=0", "at least 1"),
        ("stopping_step=-1", "at least 0"),
        ("train_by_user=2", "True or False"),
        ("max_minutes=0", "greater than 0"),
        ("max_minutes=an hour", "a number greater than 0 or empty (~)"),
        ("embedding_size=0", "at least 1"),
        ("embedding_size=[64]", "an integer"),
        ("n_layers=-1", "at least 0"),
        ("seed=-1", "from 0"),
        ("seed=4294967296", "4294967295"),
        ("worker=-1", "at least 0"),
        ("state=loud", "debug, info"),
        ("learner=adamx", "adam, adamw, sgd, adagrad, rmsprop"),
        ("learner=sparse_adam", "adam, adamw, sgd, adagrad, rmsprop"),
        ("learner=~", "one of adam"),
        ("transform=mask", "mask_itemseq"),
        ("rm_dup_inter=True", "one of first, last, False or empty (~)"),
        ("load_col=inter", "a mapping or empty (~)"),
        ("gpu_id=True", "an integer, a list of integers or numbers of GPUs as in 0,1"),
        ("user_inter_num_interval=5", "interval"),
        ("user_inter_num_interval=[5;10]", "interval"),
        ("item_inter_num_interval=[a,b)", "interval"),
        ("eval_args=full", "a mapping"),
        ("eval_args={splits: {RS: [8, 1, 1]}}", "one of the keys split, order, group_by, mode"),
        ("eval_args={split: {RS: [8, 1]}}", "{RS: [0.8, 0.1, 0.1]}"),
        ("eval_args={split: {RS: [0, 0, 0]}}", "{RS: [0.8, 0.1, 0.1]}"),
        ("eval_args={split: {LS: all}}", "{LS: valid_and_test}"),
        ("eval_args={order: random}", "one of RO, TO"),
        ("eval_args={group_by: item}", "user or none"),
        ("eval_args={mode: uni}", "uniN"),
        ("eval_args={mode: {train: full}}", "uniN"),
        ("train_neg_sample_args=3", "a mapping or empty (~)"),
        ("train_neg_sample_args={sample: 3}", "one of the keys distribution, sample_num"),
        ("train_neg_sample_args={sample_num: 0}", "at least 1"),
        ("train_neg_sample_args={distribution: unifrom}", "one of uniform, popularity"),
        ("clip_grad_norm=5", "a mapping or empty (~)"),
        ("clip_grad_norm={norm_type: 2}", "max_norm"),
        ("wandb_project=2024", "a text"),
    ],
)
def test_wrong_values(argument: str, allowed: str) -> None:
    message = refused(f"--{argument}")
    key = argument.split("=")[0]
    assert message.startswith(f"Invalid --{key}")
    assert ": expected " in message and allowed in message
    assert ". Try --" in message or ". Leave " in message
    assert "\n" not in message


def test_the_whole_sentence() -> None:
    assert refused("--epochs=abc") == "Invalid --epochs=abc: expected an integer of at least 0. Try --epochs=300."


@pytest.mark.parametrize(
    ("argument", "fix"),
    [
        ("epochs=1e2", "Try --epochs=100."),
        ("wandb_project=2024", "Try --wandb_project='\"2024\"'."),
        ("load_col=inter", "Try --load_col='{inter: [user_id, item_id]}'."),
        ("seq_len=3", "Leave seq_len out."),
        ("valid_metric=NDCG@30", "Try --valid_metric=NDCG@10, or put 30 into topk=[10]."),
        ("valid_metric=MAP@10", "Try --valid_metric=Recall@10, or add MAP to metrics."),
        ("valid_metric=NDCG", "Try --valid_metric=NDCG@10."),
        ("valid_metric=Foo@10", "Try --valid_metric=Recall@10."),
        ("metrics=Foo", "Try --metrics='[Recall, NDCG]'."),
    ],
)
def test_the_fix(argument: str, fix: str) -> None:
    assert fix in refused(f"--{argument}")


@pytest.mark.parametrize(
    "argv",
    [
        ["--metrics=Foo"],
        ["--metrics=[Recall, Foo]"],
        ["--metrics=[]"],
        ["--metrics=[Recall, AUC]"],
        ["--metrics=[3]"],
        ["--valid_metric=NDCG@30"],
        ["--valid_metric=NDCG@0"],
        ["--valid_metric=NDCG@ten"],
        ["--valid_metric=NDCG@"],
        ["--valid_metric=GAUC@10", "--metrics=GAUC"],
        ["--valid_metric=10"],
        ["--topk=[20]"],
        ["--metrics=[Recall]"],
        ["--metrics=[AUC, LogLoss]"],
    ],
)
def test_metrics_that_do_not_fit_together(argv: list[str]) -> None:
    refused(*argv)


@pytest.mark.parametrize(
    "argument",
    [
        "epochs=0",
        "learning_rate=1",
        "learning_rate=1e-3",
        "weight_decay=0",
        "topk=[5,10,20]",
        "topk=10",
        "metrics=[recall, mrr, NDCG]",
        "metrics=MRR",
        "valid_metric=ndcg@10",
        "gpu_id=0",
        "gpu_id=0,1",
        "gpu_id=",
        "state=Warning",
        "state=~",
        "learner=AdamW",
        "transform=~",
        "load_col=~",
        "load_col={inter: [user_id, item_id, timestamp]}",
        "additional_feat_suffix=ent",
        "additional_feat_suffix=[ent]",
        "rm_dup_inter=first",
        "rm_dup_inter=False",
        "user_inter_num_interval=[5,inf)",
        "user_inter_num_interval=(0,10];[20, 1e3]",
        "user_inter_num_interval=~",
        "val_interval={rating: '[3,inf)'}",
        "threshold={rating: 3}",
        "filter_inter_by_user_or_item=~",
        "TIME_FIELD=~",
        "seed=0",
        "train_neg_sample_args=~",
        "train_neg_sample_args={distribution: popularity, sample_num: 2, alpha: 1}",
        "eval_args={split: {TS: [8, 1, 1]}, order: TO, group_by: ~}",
        "eval_args={mode: {valid: uni100, test: full}, group_by: None}",
        "eval_args={split: {LS: test_only}}",
        "clip_grad_norm={max_norm: 5, norm_type: 2}",
        "reg_weight=0",
        "tail_ratio=0.2",
        "kd_beta=anything",
    ],
)
def test_right_values(argument: str) -> None:
    check(parse_arguments([f"--{argument}"]), DEFAULTS)


def test_metrics_that_fit_together() -> None:
    check(parse_arguments(["--topk=[20,50]", "--valid_metric=Recall@50"]), DEFAULTS)
    check(parse_arguments(["--metrics=[AUC, LogLoss]", "--valid_metric=AUC"]), DEFAULTS)
    check(parse_arguments(["--metrics=[GAUC, MRR]", "--valid_metric=gauc"]), DEFAULTS)


def test_the_type_follows_the_model() -> None:
    dcn, hgn = defaults_with("model/DCN.yaml"), defaults_with("model/HGN.yaml")
    check({"reg_weight": 0.5, "mlp_hidden_size": [64, 64]}, dcn)
    check({"reg_weight": [0, 0.1]}, hgn)
    assert "reg_weight" in refused("--reg_weight=0.5", defaults=hgn)
    assert "a list of integers" in refused("--mlp_hidden_size=[64, b]", defaults=dcn)
    assert "a list of numbers" in refused("--reg_weight=[a, 1]", defaults=hgn)
    assert "dropout_prob=1.5" in refused("--dropout_prob=1.5", defaults=dcn)


def test_rules_hold_without_a_default() -> None:
    for argument in ("--embedding_size=big", "--learning_rate=fast", "--seed=x", "--n_layers=[1]"):
        assert argument in refused(argument, defaults={})


def test_the_prefix_is_in_the_message() -> None:
    message = refused("--embedding_size=0", prefix="teacher.")
    assert message.startswith("Invalid --teacher.embedding_size=0") and "--teacher.embedding_size=64" in message


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
PARTS = st.dictionaries(
    st.sampled_from(["split", "order", "mode", "group_by", "distribution", "sample_num", "max_norm"]), PLAIN
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first draw builds tables of characters
@given(st.dictionaries(st.sampled_from(sorted(RECBOLE_KEYS)), st.one_of(PLAIN, PARTS), max_size=4))
def test_any_value_passes_or_is_a_config_error(values: dict[str, object]) -> None:
    for defaults in (DEFAULTS, {}):
        with contextlib.suppress(ConfigError):
            check(values, defaults)


@given(
    st.sampled_from(["eval_args", "train_neg_sample_args", "clip_grad_norm", "metrics", "topk", "valid_metric"]),
    st.one_of(PLAIN, PARTS),
)
def test_any_value_of_the_nested_keys_passes_or_is_a_config_error(key: str, value: object) -> None:
    for defaults in (DEFAULTS, {}):
        with contextlib.suppress(ConfigError):
            check({key: value}, defaults)
