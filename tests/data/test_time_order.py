"""The order in time is that of the file, whatever the unit, compared with an independent computation."""

from __future__ import annotations

import sys
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.quick_start import run_recbole

from recbole_kd.cli.run import main
from recbole_kd.data.histories.sequence_dataset import sequence_parts
from recbole_kd.data.split_and_loaders import Splits, split_data
from recbole_kd.data.split_words import describe_split
from recbole_kd.data.time_order import RAW_TIME
from tests.support.helpers import SEQUENTIAL, TinyData, build_config
from tests.support.runs import results

RATIO = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user", "mode": "full"}
OF_ALL = {**RATIO, "group_by": "none"}
TS = {**RATIO, "split": {"TS": [0.8, 0.1, 0.1]}}
LEAVE_ONE_OUT = SEQUENTIAL["eval_args"]
SPLITS = {"ratio": RATIO, "of-all": OF_ALL, "boundary": TS, "last": LEAVE_ONE_OUT}

Row = tuple[str, str, str]
"""User, item and the time as it is written."""

UNITS = {
    "seconds": lambda tick: str(1_600_000_000 + tick),
    "milliseconds": lambda tick: str(1_600_000_000_000 + tick),
    "microseconds": lambda tick: str(1_600_000_000_000_000 + tick),
    "nanoseconds": lambda tick: str(1_600_000_000_000_000_000 + tick),
    "negative": lambda tick: str(-3_000_000_000 + tick),
    "fractions": lambda tick: f"1600000000.{tick:05d}",
    "small": lambda tick: f"0.{tick:09d}",
}


def write(folder: Path, rows: list[Row], name: str = "near") -> TinyData:
    """Write an atomic file with times."""
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(row) for row in rows)]
    (target / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return TinyData(str(folder), name)


def made_rows(unit: str, seed: int, n_users: int = 12, ties: bool = True) -> list[Row]:
    """Rows of some users in any order, close together in time."""
    draw = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        n = int(draw.integers(3, 25))
        ticks = draw.integers(0, 40, n) if ties else draw.permutation(90_000)[:n]
        rows += [
            (f"u{user}", f"i{item}", UNITS[unit](int(tick)))
            for item, tick in zip(draw.permutation(30)[:n], ticks, strict=True)
        ]
    return [rows[place] for place in draw.permutation(len(rows))]


def expected_split(rows: list[Row], arguments: dict[str, Any]) -> list[set[tuple[str, str]]]:
    """Divide the rows as RecBole's rules say, over decimal numbers and Python's stable sort.

    Nothing of the package is asked.
    """
    ordered = sorted(rows, key=lambda row: Decimal(row[2]))
    of_user: dict[str, list[Row]] = defaultdict(list)
    for row in ordered:
        of_user[row[0]].append(row)
    parts: list[list[Row]] = [[], [], []]
    ((kind, _),) = arguments["split"].items()
    if kind == "TS":
        boundary = Decimal(ordered[(len(rows) - 1) * 9 // 10][2])
        for own in of_user.values():
            early = [row for row in own if Decimal(row[2]) <= boundary]
            parts[0] += early[: int(len(early) * (0.8 / (1 - 0.1)))]
            parts[1] += early[int(len(early) * (0.8 / (1 - 0.1))) :]
            parts[2] += [row for row in own if Decimal(row[2]) > boundary]
    else:
        for own in of_user.values() if arguments["group_by"] == "user" else [ordered]:
            held = 1 if kind == "LS" else max(len(own) // 10, 1 if len(own) > 2 else 0)
            parts[0] += own[: len(own) - 2 * held]
            parts[1] += own[len(own) - 2 * held : len(own) - held]
            parts[2] += own[len(own) - held :]
    return [{row[:2] for row in part} for part in parts]


def found_split(splits: Splits) -> list[set[tuple[str, str]]]:
    data = splits.dataset
    found = []
    for part in splits.parts:
        columns = (np.asarray(part.inter_feat[field]) for field in (data.uid_field, data.iid_field))
        users, items = (
            data.id2token(field, ids) for field, ids in zip((data.uid_field, data.iid_field), columns, strict=True)
        )
        found.append(set(zip(users.tolist(), items.tolist(), strict=True)))
    return found


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("unit", UNITS)
def test_times_decide_the_split(unit: str, split: str, tmp_path: Path) -> None:
    rows = made_rows(unit, seed=len(unit))
    splits = split_data(build_config(write(tmp_path, rows), "MF", eval_args=SPLITS[split], time_order="exact"))
    assert found_split(splits) == expected_split(rows, SPLITS[split])


@settings(max_examples=25, deadline=None)
@given(
    unit=st.sampled_from(sorted(UNITS)),
    split=st.sampled_from(sorted(SPLITS)),
    seed=st.integers(0, 10**6),
    ties=st.booleans(),
)
def test_times_decide_any_split(
    unit: str, split: str, seed: int, ties: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = made_rows(unit, seed, ties=ties)
    data = write(tmp_path_factory.mktemp("any"), rows)
    try:
        splits = split_data(build_config(data, "MF", eval_args=SPLITS[split], time_order="exact"))
    except ValueError as error:  # a part may be left empty
        assert "leaves no" in str(error) and not all(expected_split(rows, SPLITS[split]))
        return
    assert found_split(splits) == expected_split(rows, SPLITS[split])


@pytest.mark.parametrize("normalised", [False, True])
def test_the_order_of_the_file_changes_nothing(normalised: bool, tmp_path: Path) -> None:
    """Sixty users in twelve years, gaps of at most ten seconds, newest first: RecBole's order holds out other items."""
    draw = np.random.default_rng(0)
    rows = []
    for user in range(60):
        times = 1_200_000_000 + 6_300_000 * user + draw.integers(1, 10, 20).cumsum()
        rows += [
            (f"u{user}", f"i{item}", str(time)) for item, time in zip(draw.permutation(25)[:20], times, strict=True)
        ]
    expected = expected_split(rows, LEAVE_ONE_OUT)
    given_keys = {"eval_args": LEAVE_ONE_OUT, "normalize_all": normalised}
    for number, written in enumerate((rows, rows[::-1])):
        data = write(tmp_path / str(number), written)
        assert found_split(split_data(build_config(data, "MF", **given_keys))) == expected
    theirs = split_data(build_config(data, "MF", **given_keys, time_order="recbole"))
    exact = split_data(build_config(data, "MF", **given_keys))
    changed = sum(a != b for a, b in zip(_last(found_split(theirs)), _last(found_split(exact)), strict=True))
    assert changed > 0
    assert (
        exact.dataset.order_change.split >= changed
        and exact.dataset.order_change.order == exact.parts[0].order_change.order
    )
    assert theirs.dataset.order_change is None
    assert (
        theirs.fingerprint["test"] != exact.fingerprint["test"]
        and theirs.fingerprint["histories"] != exact.fingerprint["histories"]
    )
    words = describe_split(exact.dataset)
    assert (
        f"other interactions of {exact.dataset.order_change.split} of 60 users" in words
        and "float32" in describe_split(theirs.dataset)
    )


def _last(parts: list[set[tuple[str, str]]]) -> list[tuple[str, str]]:
    return sorted(parts[2])


def test_the_count_of_changed_users_is_that_of_two_splits(tmp_path: Path) -> None:
    rows = [(*row[:2], str(20 * (int(row[2]) % 1_000_000) + 10**9)) for row in made_rows("seconds", seed=5, n_users=40)]
    for arguments in SPLITS.values():
        data = write(tmp_path, rows)
        exact, theirs = (
            split_data(build_config(data, "MF", eval_args=arguments, time_order=order))
            for order in ("exact", "recbole")
        )
        pairs = zip(found_split(exact), found_split(theirs), strict=True)
        users = {user for ours, others in pairs for user, _ in ours ^ others}
        assert len(users) == exact.dataset.order_change.split > 0


@pytest.mark.parametrize("unit", UNITS)
def test_histories_follow_the_times(unit: str, tmp_path: Path) -> None:
    rows = made_rows(unit, seed=3)
    config = build_config(write(tmp_path, rows), "SASRec")
    train = sequence_parts(config, split_data(config).parts)[0]
    for user, own in _histories(rows, 2).items():
        query = int(train.token2id("user_id", user))
        begin, end = int(train.universe.begins[query]), int(train.universe.ends[query])
        assert train.id2token("item_id", np.asarray(train.universe.items[begin:end])).tolist() == own


def _histories(rows: list[Row], held_out: int) -> dict[str, list[str]]:
    of_user: dict[str, list[str]] = defaultdict(list)
    for user, item, _ in sorted(rows, key=lambda row: Decimal(row[2])):
        of_user[user].append(item)
    return {user: items[: len(items) - held_out] for user, items in of_user.items() if len(items) > held_out}


def test_prepared_files_in_any_order_give_histories_in_time(tmp_path: Path) -> None:
    rows = made_rows("nanoseconds", seed=9)
    train, valid, test = [], [], []
    last = _histories(rows, 0)
    for row in rows:
        (test if row[1] == last[row[0]][-1] else valid if row[1] == last[row[0]][-2] else train).append(row)
    for name, part in (("train", train), ("valid", valid), ("test", test)):
        write(tmp_path, part)
        (tmp_path / "near" / "near.inter").rename(tmp_path / "near" / f"near.{name}.inter")
    config = build_config(TinyData(str(tmp_path), "near"), "SASRec", benchmark_filename=["train", "valid", "test"])
    part = sequence_parts(config, split_data(config).parts)[0]
    for user, own in _histories(rows, 2).items():
        query = int(part.token2id("user_id", user))
        begin, end = int(part.universe.begins[query]), int(part.universe.ends[query])
        assert part.id2token("item_id", np.asarray(part.universe.items[begin:end])).tolist() == own


@pytest.mark.parametrize(
    ("unit", "dtype"),
    [
        ("seconds", "int64"),
        ("nanoseconds", "int64"),
        ("negative", "int64"),
        ("fractions", "float64"),
        ("small", "float64"),
    ],
)
def test_time_differences_are_those_of_the_file(unit: str, dtype: str, tmp_path: Path) -> None:
    rows = made_rows(unit, seed=1)
    splits = split_data(build_config(write(tmp_path, rows), "HSTUGeneral"))
    found = np.concatenate([np.asarray(part.inter_feat[RAW_TIME]) for part in splits.parts])
    assert str(found.dtype) == dtype
    assert sorted(found.tolist()) == sorted((int if dtype == "int64" else float)(row[2]) for row in rows)


@pytest.mark.parametrize("unit", ["milliseconds", "nanoseconds"])
@pytest.mark.parametrize("keep", ["first", "last"])
def test_duplicates_are_left_out_by_exact_times(keep: str, unit: str, tmp_path: Path) -> None:
    rows = [row for row in made_rows(unit, seed=2) for _ in range(2)]
    again = [(user, item, UNITS[unit](int(time[-2:]) ^ 1)) for user, item, time in rows]
    config = build_config(write(tmp_path, rows + again), "MF", rm_dup_inter=keep)
    splits = split_data(config)
    kept: dict[tuple[str, str], int] = {}
    for user, item, time in sorted(rows + again, key=lambda row: int(row[2])):
        if keep == "last" or (user, item) not in kept:
            kept[user, item] = int(time)
    found = np.concatenate([np.asarray(part.inter_feat[RAW_TIME]) for part in splits.parts])
    assert sorted(found.tolist()) == sorted(kept.values())


def command(data: TinyData, folder: Path, *more: str) -> list[str]:
    return [
        "--model=MF", f"--data_path={data.data_path}", f"--dataset={data.name}", f"--cache_dir={folder}/cache",
        f"--output_dir={folder}/saved", "--kd=CE", "--kd_k=2", "--topk=[2]", "--valid_metric=NDCG@2", "--epochs=1",
        "--show_progress=False", "--load_col={inter: [user_id, item_id, timestamp]}", f"--eval_args={LEAVE_ONE_OUT}",
        *more,
    ]  # fmt: skip


def test_a_cached_model_of_another_order_is_not_taken(tmp_path: Path) -> None:
    data = write(tmp_path, made_rows("seconds", seed=4))
    for order in ("exact", "recbole"):
        assert main(command(data, tmp_path, "--teacher=MF", "--teacher.epochs=1", f"--time_order={order}")) == 0
        assert not any(results(tmp_path)[-1][part]["cached"] for part in ("teacher", "student"))
    assert main(command(data, tmp_path, "--teacher=MF", "--teacher.epochs=1")) == 0
    assert all(results(tmp_path)[-1][part]["cached"] for part in ("teacher", "student"))
    assert "would hold out other interactions of" in (results(tmp_path)[-1]["folder"] / "run.log").read_text()


def test_a_teacher_cannot_have_an_order_of_its_own(tmp_path: Path, capsys: Any) -> None:
    data = write(tmp_path, made_rows("seconds", seed=4))
    assert main(command(data, tmp_path, "--teacher=MF", "--teacher.time_order=recbole")) == 2
    assert "--time_order" in capsys.readouterr().err
    assert main(command(data, tmp_path, "--teacher=MF", "--time_order=float")) == 2
    assert "exact" in capsys.readouterr().err


@pytest.mark.parametrize(("unit", "refused"), [("seconds", True), ("far", False)])
def test_a_checkpoint_in_recboles_order(unit: str, refused: bool, tmp_path: Path, capsys: Any) -> None:
    """Where float32 moves nobody's interactions the two orders are one."""
    rows = made_rows("seconds", seed=4)
    if not refused:
        rows = [(user, item, str(1000 * int(time[-3:]) + int(item[1:]))) for user, item, time in rows]
    data = write(tmp_path, rows)
    given_keys: dict[str, Any] = {
        "data_path": data.data_path, "epochs": 1, "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": LEAVE_ONE_OUT, "checkpoint_dir": str(tmp_path / "theirs"), "topk": [2], "valid_metric": "NDCG@2",
        "state": "ERROR", "show_progress": False,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["test"])
        run_recbole(model="BPR", dataset=data.name, config_dict=given_keys)
    (file,) = (tmp_path / "theirs").glob("BPR-*.pth")
    alone = ("--kd_compare=False", f"--teacher_path={file}")
    assert main(command(data, tmp_path, *alone)) == (2 if refused else 0)
    if refused:
        assert "set --time_order=recbole" in capsys.readouterr().err
    assert main(command(data, tmp_path, *alone, "--time_order=recbole")) == 0
