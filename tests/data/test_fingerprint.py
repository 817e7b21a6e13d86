"""The fingerprint tells apart data that differ in one interaction or in its time, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_kd.data.split_and_loaders import split_data
from tests.support.helpers import TinyData, build_config

LINES = [(f"u{user}", f"i{(user + step) % 9}", 100 * user + step) for user in range(6) for step in range(5)]


def fingerprint(folder: Path, lines: list[tuple[str, str, int]]) -> dict[str, Any]:
    place = folder / "made"
    place.mkdir(parents=True)
    rows = ["\t".join(map(str, line)) for line in lines]
    (place / "made.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows, ""]))
    return split_data(build_config(TinyData(str(folder), "made"), "MF")).fingerprint


def one_moved() -> list[tuple[str, str, int]]:
    """Give the next user the item before, in one row: the sums of user and item numbers stay what they are."""
    moved = LINES.index(("u4", "i4", 400))
    return [*LINES[:moved], *LINES[moved + 1 :], ("u5", "i3", 499)]


def test_the_same_rows_have_the_same_fingerprint(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "one", LINES) == fingerprint(tmp_path / "two", LINES)


def test_a_moved_row_is_other_data(tmp_path: Path) -> None:
    one, other = fingerprint(tmp_path / "one", LINES), fingerprint(tmp_path / "two", one_moved())
    assert one["interactions"]["count"] == other["interactions"]["count"]
    assert one["interactions"]["pairs"] != other["interactions"]["pairs"]


def test_another_time_in_the_same_order_is_another_history_alone(tmp_path: Path) -> None:
    first, *rest = LINES
    earlier = [(*first[:2], first[2] - 1), *rest]
    one, other = fingerprint(tmp_path / "one", LINES), fingerprint(tmp_path / "two", earlier)
    assert one["histories"] != other["histories"]
    assert {**one, "histories": None} == {**other, "histories": None}
