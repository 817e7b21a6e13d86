"""Raw files of every form become atomic files: right rows, right splits, whole or not at all."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from recbole_kd.data.preparing import atomic_writer as atomic
from recbole_kd.data.preparing import prepare as converters
from recbole_kd.data.preparing.filters import first_per_pair, k_core
from recbole_kd.data.preparing.interactions import Collector, Row
from recbole_kd.data.preparing.known_datasets import KNOWN_DATASETS
from recbole_kd.data.preparing.prepare import prepare, prepare_command
from recbole_kd.data.preparing.raw_files import Lines
from recbole_kd.data.preparing.raw_layouts import Options
from recbole_kd.data.preparing.split_rules import hold_out, ratio_split
from recbole_kd.errors import ConfigError, DataError, TargetError
from tests.support import paths
from tests.support.atomic_files import rows_of
from tests.support.fresh import python

ROOT = paths.ROOT
SCRIPT = ROOT / "scripts" / "prepare_dataset.py"
RAW = os.environ.get("RECBOLE_KD_RAW")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def script_main(arguments: list[str]) -> int:
    """The script's main, in this process: importing RecBole anew for each case would take seconds."""
    spec = importlib.util.spec_from_file_location("prepare_dataset", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return int(script.main(arguments))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


# ---- rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(5, 41))
def test_ratio_split_follows_the_formula(n: int) -> None:
    parts = ratio_split(np.r_[np.zeros(7), np.ones(n)].astype(np.int32))
    left, right = max(8 * n // 10, 1), 9 * n // 10
    positions = np.arange(n)
    assert np.array_equal(positions[parts["train"][7:]], positions[:left])
    assert np.array_equal(positions[parts["valid"][7:]], positions[left:right])
    assert np.array_equal(positions[parts["test"][7:]], positions[right:])


@pytest.mark.parametrize("n", range(1, 5))
def test_ratio_split_puts_every_row_of_a_short_history_in_one_part(n: int) -> None:
    parts = ratio_split(np.zeros(n, dtype=np.int32))
    assert np.array_equal(sum(mask.astype(int) for mask in parts.values()), np.ones(n))
    assert parts["train"][0]


def naive_k_core(pairs: list[tuple[int, int]], k: int) -> list[bool]:
    keep = [True] * len(pairs)
    while True:
        users = Counter(user for (user, _), kept in zip(pairs, keep, strict=True) if kept)
        items = Counter(item for (_, item), kept in zip(pairs, keep, strict=True) if kept)
        after = [k_ and users[u] >= k and items[i] >= k for (u, i), k_ in zip(pairs, keep, strict=True)]
        if after == keep:
            return keep
        keep = after


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), unique=True, max_size=60), st.integers(1, 5))
def test_k_core_equals_the_naive_one(pairs: list[tuple[int, int]], k: int) -> None:
    users = np.array([user for user, _ in pairs], dtype=np.int32)
    items = np.array([item for _, item in pairs], dtype=np.int32)
    assert k_core(users, items, k).tolist() == naive_k_core(pairs, k)


def test_k_core_goes_on_until_nothing_moves() -> None:
    """A chain: each round drops one more row, so a single pass would leave most of it."""
    users = np.array([0, 1, 1, 2, 2, 3], dtype=np.int32)
    items = np.array([0, 0, 1, 1, 2, 2], dtype=np.int32)
    assert not k_core(users, items, 2).any()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), max_size=40))
def test_first_per_pair_keeps_the_earliest(records: list[tuple[int, int, int]]) -> None:
    lines = Lines(Path("unused"))
    inter = Collector().add((Row(f"u{u}", f"i{i}", t) for u, i, t in records), lines).interactions()
    earliest: dict[tuple[int, int], tuple[int, int]] = {}
    for place, (user, item, time) in enumerate(records):
        earliest[user, item] = min(earliest.get((user, item), (time, place)), (time, place))
    assert np.flatnonzero(first_per_pair(inter)).tolist() == sorted(place for _, place in earliest.values())


def test_hold_out_takes_a_ninth_of_each_users_train_rows() -> None:
    sizes = [1, 4, 5, 8, 9, 18, 90]
    user = np.repeat(np.arange(len(sizes)), np.array(sizes) + 2).astype(np.int32)
    is_train = np.concatenate([np.r_[np.ones(size), 0, 0] for size in sizes]).astype(bool)
    parts = hold_out(user, is_train, seed=2020)
    assert np.bincount(user[parts["valid"]], minlength=len(sizes)).tolist() == [0, 0, 1, 1, 1, 2, 10]
    assert np.array_equal(parts["train"] | parts["valid"], is_train)
    assert np.array_equal(parts["test"], ~is_train)
    assert not np.array_equal(parts["valid"], hold_out(user, is_train, seed=1)["valid"])


# ---- forms -------------------------------------------------------------------------------------------------


def test_citeulike_form(raw: Path, out: Path) -> None:
    (raw / "users.dat").write_text("5 10 11 12 13 14\n2 10 99\n0\n10 " + " ".join(map(str, range(10))) + "\n")
    manifest = prepare("citeulike", Options(raw=raw), out, check_counts=False)
    folder = out / "citeulike"
    assert rows_of(folder / "citeulike.inter")[:3] == [
        ["user_id:token", "item_id:token", "timestamp:float"],
        ["0", "10", "0"],
        ["0", "11", "1"],
    ]
    assert rows_of(folder / "citeulike.train.inter")[5] == ["3", "0", "0"]  # user ids are raw line numbers
    assert rows_of(folder / "citeulike.valid.inter")[1:] == [["3", "8", "8"]]
    assert rows_of(folder / "citeulike.test.inter")[1:] == [["0", "14", "4"], ["3", "9", "9"]]
    assert manifest["counts"]["all"] == {"users": 2, "items": 15, "interactions": 15}
    assert manifest["counts"]["train"]["interactions"] == 12


def test_citeulike_counts_a_repeated_item_once(raw: Path, out: Path) -> None:
    (raw / "users.dat").write_text("5 1 2 3 4 1\n6 1 2 3 4 5 1\n")
    manifest = prepare("citeulike", Options(raw=raw), out, check_counts=False)
    assert manifest["counts"]["all"] == {"users": 1, "items": 5, "interactions": 5}


def test_lightgcn_form(raw: Path, out: Path) -> None:
    (raw / "train.txt").write_text("0 1 2 3 4 5 6 7 8 9\n1 1 2\n")
    with gzip.open(raw / "test.txt.gz", "wt") as stream:
        stream.write("1 3\n0 20 21\n2\n")
    manifest = prepare("mine", Options(raw=raw), out, form="lightgcn")
    folder = out / "mine"
    assert {part: count["interactions"] for part, count in manifest["counts"].items()} == {
        "all": 14,
        "train": 10,
        "valid": 1,
        "test": 3,
        "trainall": 11,
    }
    assert rows_of(folder / "mine.test.inter")[1:] == [["0", "20", "9"], ["0", "21", "10"], ["1", "3", "2"]]
    both = rows_of(folder / "mine.train.inter")[1:] + rows_of(folder / "mine.valid.inter")[1:]
    assert sorted(both) == sorted(rows_of(folder / "mine.trainall.inter")[1:])


def test_lightgcn_refuses_an_item_in_train_and_test(raw: Path, out: Path) -> None:
    (raw / "train.txt").write_text("0 1 2 3\n")
    (raw / "test.txt").write_text("0 2\n")
    with pytest.raises(DataError, match=r"item '2' of user '0' is in train as well"):
        prepare("gowalla", Options(raw=raw), out, check_counts=False)


def test_checkins_keep_the_first_visit(raw: Path, out: Path) -> None:
    """Gowalla's file runs backwards in time, so the first visit stands last."""
    lines = [
        f"{user}\t2010-10-{day:02}T00:00:{second:02}Z\t1.0\t2.0\t{place}\n"
        for user in (0, 1)
        for day, second, place in ((9, 0, 5), (3, 0, 6), (2, 7, 5), (1, 0, 7))
    ]
    (raw / "loc-gowalla_totalCheckins.txt").write_text("".join(lines) + "2\t2010-10-01T00:00:00Z\t1\t2\t5\n")
    manifest = prepare("gowalla", Options(raw=raw, core=2), out, form="checkins")
    rows = rows_of(out / "gowalla" / "gowalla.inter")[1:]
    start = int(pd.Timestamp("2010-10-01", tz="UTC").timestamp())
    assert rows[:3] == [
        ["0", "7", str(start)],
        ["0", "5", str(start + 86_407)],
        ["0", "6", str(start + 172_800)],
    ]
    assert manifest["counts"]["all"] == {"users": 2, "items": 3, "interactions": 6}
    assert manifest["settings"] == {"core": 2}


@pytest.mark.parametrize("mark", [" ", ",", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_yelp2018_form(raw: Path, out: Path, mark: str, header: bool) -> None:
    records = [("user", "item", "rating", "time")] if header else []
    for user in range(10):
        records += [(f"u{user}", f"i{item}", "4.0", str(1_000 - item)) for item in range(12)]
        records.append((f"u{user}", "i3", "5", "1"))  # a second review, earlier in time: the one that counts
        records.append((f"u{user}", "low", "3.5", "0"))
    records.append(("lonely", "i0", "5", "7"))
    (raw / "yelp2018.txt").write_text("".join(mark.join(record) + "\n" for record in records))
    manifest = prepare("yelp2018", Options(raw=raw), out)
    assert manifest["counts"]["all"] == {"users": 10, "items": 12, "interactions": 120}
    folder = out / "yelp2018"
    rows = rows_of(folder / "yelp2018.inter")
    assert rows[0] == ["user_id:token", "item_id:token", "timestamp:float", "rating:float"]
    assert rows[1:3] == [["u0", "i3", "1", "5"], ["u0", "i11", "989", "4"]]
    assert [row[1] for row in rows_of(folder / "yelp2018.test.inter")[1:3]] == [
        "i1",
        "i0",
    ]  # n = 12: l = 9, r = 10
    assert len(rows_of(folder / "yelp2018.valid.inter")) == 1 + 10


def test_yelp2018_reads_dates(raw: Path, out: Path) -> None:
    (raw / "yelp2018.txt").write_text("u i 5 2018-01-02 03:04:05\nu j 5 2018-01-01\n")
    prepare("yelp2018", Options(raw=raw, core=1), out)
    times = [row[2] for row in rows_of(out / "yelp2018" / "yelp2018.inter")[1:]]
    assert times == ["1514764800", "1514862245"]


def test_beauty_form_with_attributes(raw: Path, out: Path) -> None:
    (raw / "Beauty.txt").write_text("1 7 8 7\n2 8 9\n")
    (raw / "Beauty_item2attributes.json").write_text(json.dumps({"8": [3, 1], "7": [2], "unused": [5]}))
    prepare("beauty", Options(raw=raw), out, check_counts=False)
    folder = out / "beauty"
    assert [row[1:] for row in rows_of(folder / "beauty.inter")[1:4]] == [["7", "0"], ["8", "1"], ["7", "2"]]
    assert rows_of(folder / "beauty.item") == [
        ["item_id:token", "attributes:token_seq"],
        ["7", "2"],
        ["8", "3 1"],
        ["9", ""],
    ]
    assert set(contents(folder)) == {"beauty.inter", "beauty.item", "prepared.json"}


def test_sequence_form_for_any_name(raw: Path, out: Path) -> None:
    (raw / "toys.txt").write_text("a 1 2 3 4 5 6 7 8 9 10\n")
    prepare("toys", Options(raw=raw, file="toys.txt", split="ratio"), out, form="sequence")
    assert rows_of(out / "toys" / "toys.test.inter")[1:] == [["a", "10", "9"]]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".parquet"])
def test_table_form(raw: Path, out: Path, suffix: str) -> None:
    pytest.importorskip("pyarrow") if suffix == ".parquet" else None
    frame = pd.DataFrame(
        {
            "when": [30, 10, 20, 5, 7],
            "film": [1, 2, 1, 3, 1],
            "noise": ['a,"b"\tc'] * 5,
            "viewer": ["x", "x", "x", "x", "y"],
            "stars": [5.0, 4.5, 4.0, 1.0, 5.0],
        }
    )
    path = raw / f"films{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    options = Options(raw=raw, file=path.name, user="viewer", item="film", time="when", rating="stars", min_rating=4)
    prepare("films", options, out, form="table")
    assert rows_of(out / "films" / "films.inter")[1:] == [
        ["x", "2", "10", "4.5"],
        ["x", "1", "20", "4"],
        ["y", "1", "7", "5"],
    ]
    core = Options(**{**vars(options), "core": 2})
    with pytest.raises(DataError, match="No interaction of films is left"):
        prepare("films", core, out, form="table")


def test_table_without_time_has_no_timestamp(raw: Path, out: Path) -> None:
    (raw / "t.csv").write_text("u,i\nb,1\na,1\nb,0\n")
    prepare("t", Options(raw=raw, file="t.csv", user="u", item="i"), out, form="table")
    assert rows_of(out / "t" / "t.inter") == [
        ["user_id:token", "item_id:token"],
        ["b", "1"],
        ["b", "0"],
        ["a", "1"],
    ]


def test_recbole_reads_the_numbers_back(raw: Path, out: Path) -> None:
    (raw / "t.csv").write_text("u,i,t\na,1,0.1\na,2,1288137600.25\na,3,-3\n")
    prepare("t", Options(raw=raw, file="t.csv", user="u", item="i", time="t"), out, form="table")
    frame = pd.read_csv(out / "t" / "t.inter", sep="\t", engine="python", dtype={"user_id:token": str})
    assert frame["timestamp:float"].tolist() == [-3, 0.1, 1288137600.25]


# ---- malformed input ---------------------------------------------------------------------------------------

MALFORMED = [
    ("citeulike", "users.dat", "1 5\n2 5\n", ":2: expected a count"),
    ("citeulike", "users.dat", "1 5\n\n1 4\n", ":2: expected a count"),
    ("citeulike", "users.dat", "x 5\n", ":1: expected a count"),
    (
        "citeulike",
        "users.dat",
        "0\n5 1 2 3 4 nan\n",
        ":2: the id 'nan' would be read back as a missing value",
    ),
    ("beauty", "Beauty.txt", "1 2 3\n1 4\n", ":2: user '1' already has a line"),
    ("beauty", "Beauty.txt", "1 2 3\n2\n", ":2: user '2' has no items"),
    ("beauty", "Beauty.txt", '1 2\n2 "5\n', ":2: the id '\"5' has"),
    ("yelp2018", "yelp2018.txt", "u i 5 1\nu i 5\n", ":2: expected user, item, rating, time; found 3 fields"),
    ("yelp2018", "yelp2018.txt", "u i five 1\n", ":1: the rating 'five' is not a number"),
    ("yelp2018", "yelp2018.txt", "u,i,5,1\nu,j,5,soon\n", ":2: the time 'soon' is neither a number"),
    ("yelp2018", "yelp2018.txt", "u,i,5,1\nu,j,inf,1\n", ":2: the rating 'inf' is not a number"),
    ("yelp2018", "yelp2018.txt", "u,i,5,1\n,j,5,1\n", ":2: an id is empty"),
]


@pytest.mark.parametrize(("name", "file", "text", "message"), MALFORMED)
def test_malformed_lines_are_named(raw: Path, out: Path, name: str, file: str, text: str, message: str) -> None:
    (raw / file).write_text(text)
    with pytest.raises(DataError) as caught:
        prepare(name, Options(raw=raw), out, check_counts=False)
    assert f"{raw / file}{message}" in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [("0\t2010-13-01T00:00:00Z\t1\t2\t3", "the time"), ("0\t2010-10-01T00:00:00Z\t1\t3", "found 4 fields")],
)
def test_malformed_checkins(raw: Path, out: Path, line: str, message: str) -> None:
    (raw / "c.txt").write_text(f"0\t2010-10-01T00:00:00Z\t1\t2\t3\n{line}\n")
    with pytest.raises(DataError, match=rf"c\.txt:2: .*{message}"):
        prepare("mine", Options(raw=raw, file="c.txt"), out, form="checkins")


def test_malformed_tables(raw: Path, out: Path) -> None:
    (raw / "t.csv").write_text("u,i\na,1\na,1,2\n")
    options = Options(raw=raw, file="t.csv", user="u", item="i")
    with pytest.raises(DataError, match=r"t\.csv:3: expected 2 columns, found 3"):
        prepare("t", options, out, form="table")
    with pytest.raises(ConfigError, match=r"has no column 'it'"):
        prepare("t", Options(**{**vars(options), "item": "it"}), out, form="table")


def test_a_missing_value_in_parquet_names_the_row(raw: Path, out: Path) -> None:
    pytest.importorskip("pyarrow")
    pd.DataFrame({"u": ["a", None], "i": [1, 2]}).to_parquet(raw / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet, row 2: an id is empty"):
        prepare("t", Options(raw=raw, file="t.parquet", user="u", item="i"), out, form="table")


def test_bytes_that_are_no_text_and_damaged_gzip(raw: Path, out: Path) -> None:
    (raw / "Beauty.txt").write_bytes(b"1 2\n2 \xff\n")
    with pytest.raises(DataError, match=r"Beauty\.txt:2: this is not UTF-8 text"):
        prepare("beauty", Options(raw=raw), out, check_counts=False)
    (raw / "Beauty.txt").unlink()
    (raw / "Beauty.txt.gz").write_bytes(gzip.compress(b"1 2 3\n" * 1000)[:-10])
    with pytest.raises(DataError, match=r"the gzip file is damaged"):
        prepare("beauty", Options(raw=raw), out, check_counts=False)


def test_missing_files_and_wrong_counts(raw: Path, out: Path) -> None:
    with pytest.raises(DataError, match=r"users\.dat \(or users\.dat\.gz\) is not in"):
        prepare("citeulike", Options(raw=raw), out)
    (raw / "users.dat").write_text("5 1 2 3 4 5\n")
    with pytest.raises(DataError, match=r"citeulike has 1 users, but the published data has 5,219"):
        prepare("citeulike", Options(raw=raw), out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "options", "form", "message"),
    [
        ("citeulik", Options(), None, "did you mean 'citeulike'"),
        ("mine", Options(), "tabel", "did you mean 'table'"),
        ("mine", Options(), "table", "needs --file="),
        ("citeulike", Options(core=5), None, "--core has no effect on the form counted"),
        ("yelp2018", Options(core=0), None, "Invalid --core=0: expected an integer of at least 1"),
        ("gowalla", Options(seed=-1), None, "Invalid --seed=-1: expected an integer from 0 to 4294967295"),
        ("beauty", Options(split="half"), None, "Invalid --split=half: expected one of none, ratio"),
        ("ml-100k", Options(), "table", "from its own package"),
        ("../x", Options(), "table", "cannot name a data set"),
    ],
)
def test_bad_options(name: str, options: Options, form: str | None, message: str, out: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(name, options, out, form=form)


# ---- whole or not at all -----------------------------------------------------------------------------------


@pytest.fixture
def sequence_file(raw: Path) -> Options:
    (raw / "s.txt").write_text("a 1 2 3\nb 2 3\n")
    return Options(raw=raw, file="s.txt", split="ratio")


def test_a_second_run_gives_the_same_bytes(sequence_file: Options, out: Path) -> None:
    first = prepare("s", sequence_file, out, form="sequence")
    before = contents(out / "s")
    assert prepare("s", sequence_file, out, form="sequence") == first
    assert contents(out / "s") == before
    assert json.loads(before["prepared.json"]) == first
    assert {path.name for path in out.iterdir()} == {"s", ".s.lock"}


@pytest.mark.parametrize("existing", [True, False])
def test_a_crash_while_writing_changes_nothing(
    sequence_file: Options, out: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    if existing:
        prepare("s", sequence_file, out, form="sequence")
        before = contents(out / "s")
    written: list[Path] = []

    def fail_at_the_third(path: Path, inter: object) -> None:
        written.append(path)
        path.write_text("half")
        if len(written) == 3:
            raise OSError("disk full")

    monkeypatch.setattr(converters, "write_inter", fail_at_the_third)
    with pytest.raises(OSError, match="disk full"):
        prepare("s", sequence_file, out, form="sequence")
    assert not (out / ".s.partial").exists()
    assert (contents(out / "s") == before) if existing else not (out / "s").exists()


def test_what_a_killed_run_left_is_cleared_or_put_back(sequence_file: Options, out: Path) -> None:
    prepare("s", sequence_file, out, form="sequence")
    before = contents(out / "s")
    (out / "s" / "mine.txt").write_text("kept")
    (out / "s").rename(out / ".s.previous")  # killed between the two renames
    (out / ".s.partial").mkdir()
    (out / ".s.partial" / "s.inter").write_text("half")
    (out / ".s.partial" / "prepared.json").touch()  # the first that is written: the folder was made here
    prepare("s", sequence_file, out, form="sequence")
    assert contents(out / "s") == {**before, "mine.txt": b"kept"}
    assert {path.name for path in out.iterdir()} == {"s", ".s.lock"}


def test_a_failed_exchange_puts_the_old_folder_back(
    sequence_file: Options, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("s", sequence_file, out, form="sequence")
    before = contents(out / "s")
    rename = Path.rename

    def refuse_partial(self: Path, target: Path) -> Path:
        if self.name == ".s.partial":
            raise OSError("no rename")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_partial)
    with pytest.raises(OSError, match="no rename"):
        prepare("s", sequence_file, out, form="sequence")
    assert contents(out / "s") == before


def test_a_folder_made_by_hand_is_never_replaced(sequence_file: Options, out: Path) -> None:
    (out / "s").mkdir(parents=True)
    (out / "s" / "s.inter").write_text("precious")
    with pytest.raises(TargetError, match="did not make"):
        prepare("s", sequence_file, out, form="sequence")
    assert contents(out / "s") == {"s.inter": b"precious"}


def test_two_runs_at_once_are_refused(sequence_file: Options, out: Path) -> None:
    out.mkdir()
    with FileLock(out / ".s.lock"), pytest.raises(DataError, match="Another run is preparing"):
        prepare("s", sequence_file, out, form="sequence")


def test_long_files_are_written_in_chunks(raw: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_CHUNK", 3)
    (raw / "s.txt").write_text("a 0 1 2 3 4 5 6 7 8 9\n")
    prepare("s", Options(raw=raw, file="s.txt"), out, form="sequence")
    assert [row[1] for row in rows_of(out / "s" / "s.inter")[1:]] == [str(item) for item in range(10)]


# ---- the command line --------------------------------------------------------------------------------------


def test_command_line(raw: Path, out: Path) -> None:
    """As a user runs it, from another folder."""
    (raw / "users.dat").write_text("5 1 2 3 4 5\n")
    done = python(str(SCRIPT), "citeulike", "--raw=raw", "--out=dataset", "--expect=none", cwd=out.parent)
    assert done.returncode == 0, done.stderr
    assert "interactions" in done.stdout and (out / "citeulike" / "citeulike.inter").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["citeulike"], "citeulike has 1 users, but the published data has 5,219"),
        (["citeulike", "--coer=3"], "Unrecognized arguments: --coer=3"),
        (["citeulike", "--form=x"], "invalid choice: 'x'"),
        (["unknown"], "'unknown' is not one of citeulike"),
    ],
)
def test_command_line_errors_are_one_sentence(
    raw: Path, out: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (raw / "users.dat").write_text("5 1 2 3 4 5\n")
    assert script_main([*arguments, f"--raw={raw}", f"--out={out}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err and printed.err.count("\n") == 1
    assert not out.exists()


def test_a_killed_process_leaves_the_old_data_set(sequence_file: Options, out: Path) -> None:
    """Killed at the third file, without a chance to clean up; the next run clears what it left."""
    prepare("s", sequence_file, out, form="sequence")
    before = contents(out / "s")
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from recbole_kd.data.preparing import prepare as converters, raw_layouts as forms\n"
        "real, written = converters.write_inter, []\n"
        "def write(path, inter):\n"
        "    written.append(path)\n"
        "    os._exit(9) if len(written) == 3 else real(path, inter)\n"
        "converters.write_inter = write\n"
        "options = forms.Options(raw=Path(sys.argv[1]), file='s.txt', split='ratio')\n"
        "converters.prepare('s', options, Path(sys.argv[2]), form='sequence')\n"
    )
    assert python("-c", program, str(sequence_file.raw), str(out), cwd=out.parent).returncode == 9
    assert contents(out / "s") == before and (out / ".s.partial").is_dir()
    prepare("s", sequence_file, out, form="sequence")
    assert contents(out / "s") == before and not (out / ".s.partial").exists()


def test_prepare_command_names_the_known_data_sets() -> None:
    multimodal = {"netflix", "tiktok", "electronics", "baby", "sports", "clothing"}
    assert set(KNOWN_DATASETS) == {"citeulike", "gowalla", "yelp2018", "beauty", *multimodal}
    expected = "recbole-kd prepare citeulike --download"
    assert prepare_command("citeulike") == expected
    assert all(prepare_command(name) for name in KNOWN_DATASETS)
    assert prepare_command("ml-100k") is None


# ---- the published data, where it is at hand ---------------------------------------------------------------


@pytest.mark.skipif(RAW is None, reason="RECBOLE_KD_RAW names no folder with the published raw files")
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("citeulike", {"all": 125_580, "train": 98_405, "valid": 12_451, "test": 14_724}),
        (
            "gowalla",
            {"all": 1_027_370, "train": 720_561, "valid": 89_567, "test": 217_242, "trainall": 810_128},
        ),
        ("beauty", {"all": 198_502}),
    ],
)
def test_published_counts(out: Path, name: str, rows: dict[str, int]) -> None:
    manifest = prepare(name, Options(raw=Path(str(RAW)) / name), out)
    assert {part: counts["interactions"] for part, counts in manifest["counts"].items()} == rows
