"""Unknown keys and names are refused with the close matches; the list of RecBole's keys is RecBole's.

After an upgrade of RecBole: `python tests/config/test_known_keys.py` writes recbole_kd/config/recbole_keys.txt anew.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from recbole_kd.config.known_keys import KEYS_FILE, RECBOLE_KEYS, check_keys, close_names, unknown_name_error
from recbole_kd.errors import ConfigError

CONFIG_NAMES = {
    "config",
    "config_dict",
    "final_config_dict",
    "external_config_dict",
    "internal_config_dict",
}
# Its config_dict is a search space ("choice", "uniform"), not a configuration.
NOT_A_CONFIG = {"hyper_tuning.py"}
# Two address books from data set to download link, not configurations.
NOT_PROPERTIES = {"url.yaml", "kg_url.yaml"}
# In RecBole's argument list, but read by nothing: a typo for config_files would be ignored.
NOT_READ = {"config_file"}
# Read by RecBole's command line, run_recbole.py, which is not in its wheel.
COMMAND_LINE = {"model", "dataset", "config_files"}


def recbole_folder() -> Path:
    """Where RecBole is installed; it is not imported."""
    spec = importlib.util.find_spec("recbole")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def is_config(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name in CONFIG_NAMES


def text_of(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def keys_in_node(node: ast.AST) -> Iterator[str]:
    """config["x"], "x" in config, config.get("x"), hasattr(config, "x"), config.x."""
    if isinstance(node, ast.Subscript) and is_config(node.value):
        yield from text_of(node.slice)
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        if is_config(node.comparators[0]):
            yield from text_of(node.left)
    elif isinstance(node, ast.Call):
        function, arguments = node.func, node.args
        if isinstance(function, ast.Attribute) and function.attr == "get" and is_config(function.value):
            yield from text_of(arguments[0])
        elif isinstance(function, ast.Name) and function.id in ("hasattr", "getattr"):
            yield from text_of(arguments[1]) if is_config(arguments[0]) else ()
    elif isinstance(node, ast.Attribute) and is_config(node.value):
        yield node.attr


def config_attributes(folder: Path) -> set[str]:
    """What Config has besides its keys: methods and the attributes it sets on itself."""
    names = {"get", "update", "items", "keys", "values"}
    for node in ast.walk(ast.parse((folder / "config" / "configurator.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def keys_in_source(folder: Path) -> set[str]:
    keys: set[str] = set()
    for path in folder.rglob("*.py"):
        if path.name not in NOT_A_CONFIG:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                keys.update(keys_in_node(node))
    return keys - config_attributes(folder)


def keys_in_properties(folder: Path) -> set[str]:
    keys: set[str] = set()
    for path in (folder / "properties").rglob("*.yaml"):
        if path.name not in NOT_PROPERTIES:
            keys.update(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    return keys


def keys_in_argument_lists(folder: Path) -> set[str]:
    tree = ast.parse((folder / "utils" / "argument_list.py").read_text(encoding="utf-8"))
    return {text for node in ast.walk(tree) if isinstance(node, ast.Constant) for text in text_of(node)}


def recbole_keys() -> list[str]:
    folder = recbole_folder()
    listed = keys_in_argument_lists(folder) - NOT_READ
    return sorted(keys_in_properties(folder) | listed | keys_in_source(folder) | COMMAND_LINE)


def write_keys_file() -> None:
    KEYS_FILE.write_text("".join(f"{key}\n" for key in recbole_keys()), encoding="utf-8")


def test_recbole_keys_are_those_of_the_installed_recbole() -> None:
    found = set(recbole_keys())
    assert found == RECBOLE_KEYS, (
        f"missing {sorted(found - RECBOLE_KEYS)}, too many {sorted(RECBOLE_KEYS - found)}: "
        "run `python tests/config/test_known_keys.py` to write recbole_kd/config/recbole_keys.txt anew"
    )


@pytest.mark.parametrize(
    "key",
    # a property file, sample.yaml, a model's file, an argument list, only in source, as attribute, deprecated
    [
        "epochs",
        "seq_len",
        "reg_weights",
        "config_files",
        "tail_ratio",
        "order_list",
        "neg_sampling",
        "time-aware",
        "model",
        "dataset",
        "device",
        "val_interval",
        "encoding",
    ],
)
def test_recbole_keys_hold(key: str) -> None:
    assert key in RECBOLE_KEYS


@pytest.mark.parametrize("word", ["ml-1m", "choice", "quniform", "final_config_dict", "yaml_loader", "config_file"])
def test_recbole_keys_hold_no_other_words(word: str) -> None:
    assert word not in RECBOLE_KEYS


def test_known_and_allowed_keys_pass() -> None:
    check_keys(["epochs", "my_key"], RECBOLE_KEYS, what="key", allow=["my_key"])


def test_unknown_key_names_close_matches_and_both_fixes() -> None:
    with pytest.raises(ConfigError) as caught:
        check_keys(["epochs", "learning_rat"], RECBOLE_KEYS, what="key", hint="keys are in the README")
    message = str(caught.value)
    assert message.startswith("Unknown key 'learning_rat': did you mean 'learning_rate'")
    assert "fix: --learning_rate=...; keys are in the README; --allow_unknown=learning_rat allows it" in message


def test_kd_keys_are_never_let_through() -> None:
    with pytest.raises(ConfigError) as caught:
        check_keys(["kd_tua"], {"kd_tau", "kd_weight"}, what="key", allow=["kd_tua"], may_allow=False)
    assert str(caught.value) == "Unknown key 'kd_tua': did you mean 'kd_tau'? (fix: --kd_tau=...)"


def test_teacher_keys_carry_their_prefix() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'teacher\.embedding_size'\?"):
        check_keys(["embeding_size"], {"embedding_size"}, what="key", may_allow=False, prefix="teacher.")


def test_a_key_like_no_other_has_no_question() -> None:
    with pytest.raises(ConfigError, match=r"^Unknown key 'qqqqqqq'\. \(fix: remove qqqqqqq;"):
        check_keys(["qqqqqqq"], {"epochs"}, what="key")


def test_close_names_ignore_case_and_are_at_most_three() -> None:
    assert close_names("lightgcn", ["LightGCN", "NGCF"])[0] == "LightGCN"
    assert len(close_names("abcd", ["abce", "abcf", "abcg", "abch"])) == 3
    assert close_names("zzz", ["LightGCN"]) == []


def test_unknown_name_lists_the_allowed_and_the_close() -> None:
    error = unknown_name_error("kd", "RCKD", ["RRD", "RCEKD", "CD"])
    assert isinstance(error, ConfigError)
    assert str(error) == "Unknown kd 'RCKD': allowed are CD, RCEKD, RRD; did you mean 'RCEKD'?"
    assert "did you mean 'RCEKD'" in str(unknown_name_error("kd", "rcekd", ["RCEKD"]))


def test_unknown_name_without_a_close_match_names_the_fix() -> None:
    message = str(unknown_name_error("setting", "zzz", ["general", "sequential"]))
    assert message.endswith("allowed are general, sequential (fix: --setting=one of them).")


def test_unknown_name_among_many_points_to_the_list() -> None:
    message = str(unknown_name_error("dataset", "qq", [f"set-{n:03}" for n in range(100)]))
    assert "and 60 more (--list shows all)" in message


if __name__ == "__main__":
    write_keys_file()
