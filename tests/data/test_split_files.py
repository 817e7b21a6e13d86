"""Published splits as train, valid and test tables become atomic files with that split."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from recbole_kd.cli.program import main
from tests.support.atomic_files import rows_of

HEADER = "USER\tITEM\tRATING\tTIMESTAMP\n"
PARTS = {
    "train": "0\t10\t5\t100\n0\t11\t4\t120\n1\t10\t5\t90\n",
    "valid": "0\t12\t5\t130\n1\t13\t4\t95\n",
    "test": "0\t13\t5\t140\n1\t11\t4\t99\n",
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for part, rows in PARTS.items():
        (folder / f"{part}.txt").write_text(HEADER + rows)
    return folder


def prepare(raw: Path, *words: str, name: str = "gowalla") -> int:
    return main(["prepare", name, "--form=split", f"--raw={raw}", f"--out={raw.parent / 'out'}", *words])


def part_of(raw: Path, part: str, name: str = "gowalla") -> list[tuple[str, ...]]:
    return [tuple(row) for row in rows_of(raw.parent / "out" / name / f"{name}.{part}.inter")[1:]]


def test_the_published_split_and_its_times_are_kept(raw: Path) -> None:
    assert prepare(raw) == 0
    assert [row[:2] for row in part_of(raw, "train")] == [("0", "10"), ("0", "11"), ("1", "10")]
    assert [row[:2] for row in part_of(raw, "valid")] == [("0", "12"), ("1", "13")]
    assert [row[:2] for row in part_of(raw, "test")] == [("0", "13"), ("1", "11")]
    assert [float(row[2]) for row in part_of(raw, "test")] == [140, 99]
    manifest = json.loads((raw.parent / "out" / "gowalla" / "prepared.json").read_text())
    assert manifest["split"] == "as published" and manifest["settings"] == {"repeats_left_out": 0}
    assert manifest["counts"]["test"]["interactions"] == 2


def test_without_times_the_order_of_the_rows_stands_for_them(raw: Path) -> None:
    for part, rows in PARTS.items():
        (raw / f"{part}.txt").unlink()
        pairs = "\n".join(",".join(row.split("\t")[:2]) for row in rows.splitlines())
        (raw / f"{part}.csv.gz").write_bytes(gzip.compress(f"User,Item\n{pairs}\n".encode()))
    assert prepare(raw, name="mine") == 0
    assert [float(row[2]) for row in part_of(raw, "train", "mine")] == [0, 1, 2]
    assert [float(row[2]) for row in part_of(raw, "test", "mine")] == [5, 6]


def test_a_pair_that_an_earlier_file_has_is_left_out_and_counted(raw: Path) -> None:
    (raw / "test.txt").write_text(HEADER + PARTS["test"] + "1\t10\t5\t99\n")
    assert prepare(raw) == 0
    assert ("1", "10") not in [row[:2] for row in part_of(raw, "test")]
    manifest = json.loads((raw.parent / "out" / "gowalla" / "prepared.json").read_text())
    assert manifest["settings"] == {"repeats_left_out": 1}


def test_columns_of_other_names_are_named(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, rows in PARTS.items():
        (raw / f"{part}.txt").write_text("who\twhat\tstars\tat\n" + rows)
    assert prepare(raw) == 2
    error = capsys.readouterr().err
    assert "train.txt has no column that is called user or userid or uid: it has who, what, stars, at" in error
    assert error.endswith("name it with --user=COLUMN.\n")
    assert prepare(raw, "--user=who", "--item=what", "--time=at") == 0
    assert prepare(raw, "--user=who", "--item=wat") == 2
    assert "has no column 'wat'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "rows", "message"),
    [
        ("valid", None, "valid.txt (or valid.txt.gz) is not in"),
        ("valid", HEADER + "0\t12\n", "valid.txt:2: expected 4 columns, found 2"),
        ("test", HEADER + "0\t12\t5\tnoon\n", "test.txt:2: the time 'noon' is neither a number nor an ISO date"),
        ("train", "0 1 2 3\n", "train.txt has no column that is called user"),
    ],
)
def test_a_missing_or_malformed_file_is_refused_and_nothing_is_written(
    raw: Path, part: str, rows: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw / f"{part}.txt").unlink()
    if rows is not None:
        (raw / f"{part}.txt").write_text(rows)
    assert prepare(raw) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (raw.parent / "out" / "gowalla").exists()
