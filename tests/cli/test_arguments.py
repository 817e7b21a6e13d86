"""The command line: what is read, what is refused, and that nothing is ever executed."""

from __future__ import annotations

import contextlib
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_kd.config.parsing import nest_prefix, parse_arguments, read_config_file, split_config_files
from recbole_kd.errors import ConfigError

SCALARS = st.one_of(st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
VALUES = st.one_of(SCALARS, st.lists(SCALARS), st.lists(st.lists(SCALARS, max_size=3), max_size=3))
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}(\.[A-Za-z0-9_]{1,8})?", fullmatch=True).filter(
    lambda key: not key.endswith("_num_interval")
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1e5", 1e5),
        ("5E-4", 5e-4),
        ("-1.5e+2", -150.0),
        (".5", 0.5),
        ("3", 3),
        ("1_000", 1000),
        ("-1", -1),
        ("True", True),
        ("false", False),
        ("no", False),
        ("None", None),
        ("~", None),
        ("null", None),
        ("none", "none"),
        ("'None'", "None"),
        ("None]", "None]"),
        ("", ""),
        (" ", " "),
        ("\t", "\t"),
        ("01", "01"),
        ("0,1", "0,1"),
        ("(1, 2)", "(1, 2)"),
        ("2024-01-02", "2024-01-02"),
        ("12:30", "12:30"),
        ("#1", "#1"),
        ("a #b", "a #b"),
        ("a: b", "a: b"),
        ("!!python/name:os.system", "!!python/name:os.system"),
        ("*", "*"),
        ("<<", "<<"),
        ("=", "="),
        ("NDCG@10", "NDCG@10"),
        ('"\\t"', "\t"),
        ("[10,20]", [10, 20]),
        ("[1e-3, None, a]", [1e-3, None, "a"]),
        ("{'RS':[0.8,0.1,0.1]}", {"RS": [0.8, 0.1, 0.1]}),
        ("{RS:[8,1,1]}", {"RS": [8, 1, 1]}),
        ("{split: {LS: valid_and_test}, order: TO}", {"split": {"LS": "valid_and_test"}, "order": "TO"}),
    ],
)
def test_values(text: str, value: object) -> None:
    parsed = parse_arguments([f"--x={text}"])["x"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["[5,inf)", "(0,10]", "[5,10]", "[1,2);[4,5]"])
def test_intervals_are_kept_as_text(text: str) -> None:
    assert parse_arguments([f"--user_inter_num_interval={text}"]) == {"user_inter_num_interval": text}


def test_split_at_the_first_equals_sign() -> None:
    assert parse_arguments(["--data_path=a=b=c", "--x==="]) == {"data_path": "a=b=c", "x": "=="}


@pytest.mark.parametrize(
    ("flag", "key"), [("--list", "list"), ("--help", "help"), ("-h", "help"), ("--version", "version")]
)
def test_flags(flag: str, key: str) -> None:
    assert parse_arguments([flag]) == {key: True}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "3"], r"'--epochs' has no '=' \(fix: write --epochs=3\)"),
        (["--seed", "-1"], r"write --seed=-1\)"),
        (["--config_files", "a.yaml b.yaml"], r"write --config_files='a\.yaml b\.yaml'\)"),
        (["--epochs", "--x=1"], r"write --epochs=value, that is --key=value"),
        (["--epochs"], r"--key=value"),
        (["-epochs=3"], r"two dashes \(fix: write --epochs=3\)"),
        (["epochs=3"], r"two dashes \(fix: write --epochs=3\)"),
        (["LightGCN"], r"'LightGCN' stands alone"),
        ([""], r"stands alone"),
        (["--=3"], r"'--=3' has no key"),
        (["--"], r"no '='"),
        (["--save_model"], r"Unknown key 'save_model': each run keeps its student"),
        (["--a b=3"], r"the key 'a b'"),
        (["--foo={bad"], r"--foo=\{bad cannot be read"),
        (["--topk=[1,2"], r"--topk=\[1,2 cannot be read"),
        (["--x=[1] 2"], r"--x=\[1\] 2 cannot be read"),
        (["--x='open"], r"cannot be read"),
        (["--x={a: 1, a: 2}"], r"the key 'a' occurs twice"),
        (["--eval_args={order:RO}"], r"a space is missing after the colon in 'order:RO'"),
        (["--x=[!!python/name:os.system ]"], r"could not determine a constructor"),
        (["--x=[!!int a]"], r"cannot be read"),
        (["--x=[!!bool a]"], r"cannot be read"),
        (["--x=" + "9" * 5000], r"cannot be read"),
        (["--x=" + "[" * 5000], r"nested too deeply"),
        (["--x=[&a [*a]]"], r"cannot be read"),
        (["--epochs=3", "--epochs=4"], r"--epochs is given twice, as '3' and as '4'"),
        (["--x=1", "--x=True"], r"given twice"),
    ],
)
def test_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arguments(argv)


def test_the_same_value_twice_is_fine() -> None:
    assert parse_arguments(["--lr=1e-3", "--lr=0.001", "--help", "-h"]) == {"lr": 0.001, "help": True}


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_printed_values_come_back(values: dict[str, object]) -> None:
    parsed = parse_arguments([f"--{key}={value}" for key, value in values.items()])
    assert repr(parsed) == repr(values)


@given(st.lists(st.one_of(st.text(), st.text().map(lambda text: f"--x={text}")), max_size=4))
def test_any_text_is_a_value_or_a_config_error(argv: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_arguments(argv), dict)


@given(st.text("[]{}'\":,!&*#-?|>%@`~<= \n\t01ae._" + string.ascii_letters[:3], max_size=30))
def test_any_structure_is_a_plain_value_or_a_config_error(text: str) -> None:
    try:
        value = parse_arguments([f"--x={text}"])["x"]
    except ConfigError:
        return
    assert value is None or type(value) in (bool, int, float, str, list, dict)


@pytest.mark.parametrize(
    "attack",
    [
        "__import__('os').system('touch pwned')",
        "[__import__('os').system('touch pwned')]",
        "!!python/object/apply:os.system ['touch pwned']",
        "[!!python/object/apply:os.system ['touch pwned']]",
        "{a: !!python/object/new:os.system ['touch pwned']}",
        "open('pwned', 'w')",
    ],
)
def test_nothing_is_executed(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_arguments([f"--x={attack}"])["x"], str | list)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "paths"),
    [("a.yaml b.yaml", ["a.yaml", "b.yaml"]), (["a b.yaml"], ["a b.yaml"]), (None, []), ("", [])],
)
def test_split_config_files(value: object, paths: list[str]) -> None:
    assert split_config_files(value) == paths


@pytest.mark.parametrize("value", [3, [1], {"a": 1}, True])
def test_config_files_of_another_kind(value: object) -> None:
    with pytest.raises(ConfigError, match="config_files"):
        split_config_files(value)


def write(folder: Path, text: str) -> Path:
    path = folder / "a.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_read_config_file(tmp_path: Path) -> None:
    text = "learning_rate: 1e-3\nuse_gpu: no\ntransform: ~\nbase: &b {k: 1}\n"
    text += "teacher_config:\n  <<: *b\n  d: None\n"
    assert read_config_file(write(tmp_path, text)) == {
        "learning_rate": 1e-3,
        "use_gpu": False,
        "transform": None,
        "base": {"k": 1},
        "teacher_config": {"k": 1, "d": None},
    }


def test_an_empty_file_has_no_keys(tmp_path: Path) -> None:
    assert read_config_file(write(tmp_path, "# nothing\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1\nc: 2\n", r"a\.yaml' is not valid YAML in line 3"),
        ("a: 1\nb: 2\na: 3\n", r"in line 3: the key 'a' occurs twice"),
        ("- a\n- b\n", r"holds a list, not a mapping"),
        ("just words\n", r"holds a str, not a mapping"),
        ("1: 2\n", r"the key 1, which is not a text"),
        ("a: !!python/object/apply:os.system [ls]\n", r"in line 1"),
    ],
)
def test_broken_config_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config_file(write(tmp_path, text))


def test_unreadable_config_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml' does not exist"):
        read_config_file(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config_file(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config_file(tmp_path / "latin.yaml")


def test_nest_prefix_merges_and_the_dotted_key_wins() -> None:
    values: dict[str, object] = {
        "teacher": "LightGCN",
        "teacher.embedding_size": 400,
        "teacher_config": {"embedding_size": 8, "n_layers": 3},
        "teachers": 1,
    }
    rest, nested = nest_prefix(values, "teacher")
    assert rest == {"teacher": "LightGCN", "teachers": 1}
    assert nested == {"embedding_size": 400, "n_layers": 3}
    assert values["teacher_config"] == {"embedding_size": 8, "n_layers": 3}


def test_nest_prefix_under_the_key_itself() -> None:
    values = parse_arguments(["--eval_args={order: TO}", "--eval_args.split={RS: [8, 1, 1]}"])
    rest, nested = nest_prefix(values, "eval_args", "eval_args")
    assert (rest, nested) == ({}, {"order": "TO", "split": {"RS": [8, 1, 1]}})


@pytest.mark.parametrize(
    "values", [{"teacher_config": [1]}, {"teacher_config": "x"}, {"teacher_config": {1: 2}}, {"teacher.": 3}]
)
def test_nest_prefix_refuses(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"fix: .*--teacher\.key=value"):
        nest_prefix(values, "teacher")


@pytest.mark.parametrize("text", ["&a [*a]", "&a {b: *a}", "[1, &a [2, {c: *a}]]"])
def test_a_value_that_contains_itself_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contains itself"):
        parse_arguments([f"--topk=[{text}]"])
    path = tmp_path / "keys.yaml"
    path.write_text(f"topk: {text}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="contains itself"):
        read_config_file(path)


def test_a_value_may_be_repeated_by_an_alias(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("topk: &cuts [5, 10]\nmine: [*cuts, *cuts]\n", encoding="utf-8")
    assert read_config_file(path) == {"topk": [5, 10], "mine": [[5, 10], [5, 10]]}
