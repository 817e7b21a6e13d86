"""``recbole-kd plan``: what a run would train on, and where its settings came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_kd.cli.program import main
from recbole_kd.config.property_layers import student_layers
from recbole_kd.data.split_and_loaders import split_data
from recbole_kd.data.split_words import split_in_words
from recbole_kd.integration.recbole_config import make_config
from tests.support.runs import words

Capture = pytest.CaptureFixture[str]


def write_histories(folder: Path, n_users: int = 12, length: int = 10) -> None:
    """User u's k-th item in time is ``(u + 3 k) mod 20``; the rows of the file are shuffled."""
    rows = [
        f"u{user}\ti{(user + 3 * place) % 20}\t{1000 * user + place}"
        for user in range(n_users)
        for place in range(length)
    ]
    np.random.default_rng(0).shuffle(rows)
    (folder / "data" / "tiny").mkdir(parents=True)
    (folder / "data" / "tiny" / "tiny.inter").write_text(
        "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]) + "\n"
    )


def planned(folder: Path, capsys: Capture, *more: str, **changes: str | None) -> dict[str, Any]:
    assert main(["plan", "--json", *words(folder, **changes), *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def history(user: int) -> list[str]:
    return [f"i{(user + 3 * place) % 20}" for place in range(10)]


def test_counts_split_and_one_users_items_in_order(tmp_path: Path, capsys: Capture) -> None:
    write_histories(tmp_path)
    plan = planned(tmp_path, capsys, "--user=u3", **{"eval_args.group_by": "user"})
    assert (plan["users"], plan["items"]) == (12, 20)
    assert plan["interactions"] == {"train": 96, "valid": 12, "test": 12}
    assert plan["split"] == "8:1:1 by time within each user" and plan["ranked"] == "all items"
    own = history(3)
    assert plan["user"] == {"user": "u3", "train": own[:8], "valid": own[8:9], "test": own[9:]}
    assert not (tmp_path / "cache").exists() and not (tmp_path / "saved").exists(), "nothing is trained or written"


def test_leave_one_out_of_a_sequential_run(tmp_path: Path, capsys: Capture) -> None:
    write_histories(tmp_path)
    plan = planned(tmp_path, capsys, "--user=u7", setting="sequential")
    own = history(7)
    assert plan["user"] == {"user": "u7", "train": own[:8], "valid": own[8:9], "test": own[9:]}
    assert (
        plan["split"] == "leave one out: the last interaction of each user for test, the one before it for validation"
    )
    assert plan["setting"] == "sequential" and plan["interactions"]["test"] == 12


def test_the_screen_says_the_same(tmp_path: Path, capsys: Capture) -> None:
    write_histories(tmp_path)
    assert main(["plan", *words(tmp_path, **{"eval_args.group_by": "user"}), "--user=u3"]) == 0
    out = capsys.readouterr().out
    assert "tiny: 12 users, 20 items, 96 / 12 / 12 interactions (train / valid / test)" in out
    assert "split: 8:1:1 by time within each user" in out and "warning" not in out
    own = history(3)
    assert f"  train  {' '.join(own[:8])}\n  valid  {own[8]}\n  test   {own[9]}\n" in out


def test_a_key_that_nothing_reads_is_a_warning(tmp_path: Path, capsys: Capture) -> None:
    assert main(["plan", *words(tmp_path), "--hidden_size=8"]) == 0
    out, err = capsys.readouterr()
    assert out and err.strip() == "warning: hidden_size=8 has no effect on MF, which does not read it"


def test_every_setting_names_its_source(tmp_path: Path, capsys: Capture) -> None:
    write_histories(tmp_path)
    for name, text in (
        ("a", "learning_rate: 0.5\nkd_weight: 3\nteacher_config: {n_layers: 1}\n"),
        ("b", "learning_rate: 0.25\n"),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
    files = f"{tmp_path / 'a.yaml'} {tmp_path / 'b.yaml'}"
    settings = planned(tmp_path, capsys, config_files=files)["settings"]
    assert set(settings) == {"student", "distilled", "teacher LightGCN"}
    expected = {
        ("student", "learning_rate"): (0.25, f"file {tmp_path / 'b.yaml'}"),
        ("student", "epochs"): (3, "command"),
        ("student", "eval_args.order"): ("TO", "command"),
        ("student", "eval_args.mode"): ({"valid": "full", "test": "full"}, "RecBole's default"),
        ("student", "init_std"): (0.01, "property file model/MF.yaml"),
        ("student", "stopping_step"): (30, "recbole_kd's default"),
        ("student", "weight_decay"): (0.001, "property file model/MF.yaml"),
        ("student", "shuffle"): (True, "RecBole's default"),
        ("distilled", "kd_weight"): (3, f"file {tmp_path / 'a.yaml'}"),
        ("distilled", "kd_tau"): (10.0, "property file distiller/RCEKD.yaml"),
        ("distilled", "kd_k"): (5, "command"),
        ("teacher LightGCN", "n_layers"): (1, f"file {tmp_path / 'a.yaml'}"),
        ("teacher LightGCN", "embedding_size"): (8, "command"),
        ("teacher LightGCN", "eval_args.order"): ("TO", "command"),
    }
    found = {where: settings[where[0]][where[1]] for where in expected}
    assert {where: (entry["value"], entry["source"]) for where, entry in found.items()} == expected
    assert not any(key.startswith("kd_k") for key in settings["student"])


def test_a_pair_file_is_called_so(capsys: Capture) -> None:
    given = ["--model=MF", "--teacher=LightGCN", "--kd=RCEKD", "--dataset=ml-100k", "--json"]
    assert main(["plan", *given]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["settings"]["distilled"]["kd_beta"]["source"] == "pair file distiller/RCEKD-ml-100k-MF-LightGCN.yaml"
    assert plan["interactions"] == {"train": 80808, "valid": 9596, "test": 9596} and plan["user"]["user"] == "196"


def test_what_a_run_would_refuse_is_refused(tmp_path: Path, capsys: Capture) -> None:
    write_histories(tmp_path)
    refusals = {
        ("--kd_k=0",): "kd_k", ("--user=u99",): "--user=u99 is none of the 12 users",
        ("--user=u1", "--user=u2"): "name one user",
        ("--user=",): "name one user", ("--topk=[10, 50]",): "20 items",
    }  # fmt: skip
    for more, said in refusals.items():
        keys = {word.split("=")[0] for word in more}
        assert main(["plan", *(w for w in words(tmp_path) if w.split("=")[0] not in keys), *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and said in line, line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user"},
        "8:1:1 at random within each user, seed 2020"),
        ({"split": {"RS": [0.7, 0.1, 0.2]}, "order": "TO", "group_by": None}, "7:1:2 by time over all interactions"),
        ({"split": {"RS": [8, 1, 1]}, "order": "TO", "group_by": "none"}, "8:1:1 by time over all interactions"),
        ({"split": {"RS": [0.5, 0.25, 0.25]}, "order": "TO", "group_by": "user"}, "2:1:1 by time within each user"),
        ({"split": {"LS": "valid_and_test"}, "order": "RO", "group_by": "user"},
         "leave one out: a random interaction of each user for test, another for validation, seed 2020"),
    ],
)  # fmt: skip
def test_splits_in_words_are_those_of_the_data(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_histories(tmp_path)
    given = {"data_path": str(tmp_path / "data"), "eval_args": {**arguments, "mode": "full"}, "show_progress": False}
    given["load_col"] = {"inter": ["user_id", "item_id", "timestamp"]}
    config = make_config("MF", "tiny", student_layers("MF", "tiny")[0], given)
    assert split_in_words(config) == said
    sizes = [len(part.inter_feat) for part in split_data(config).parts]
    if "LS" in arguments["split"]:
        assert sizes == [96, 12, 12]
    elif arguments["group_by"] != "user":
        shares = arguments["split"]["RS"]
        assert sizes == [round(120 * share / sum(shares)) for share in shares]
