"""Tables without a header, of any separator, with times to the last digit, and what is warned of."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from recbole_kd.data.preparing.prepare import prepare
from recbole_kd.data.preparing.raw_layouts import Options
from recbole_kd.errors import ConfigError, DataError


def prepared(folder: Path, file: str, text: str, **options: str) -> list[list[str]]:
    """Prepare a table and return the rows of its atomic file, the header first."""
    (folder / file).write_text(text, encoding="utf-8")
    prepare(
        "mine", Options(raw=folder, file=file, **{"user": "u", "item": "i", **options}), folder / "out", form="table"
    )
    return [
        line.split("\t") for line in (folder / "out" / "mine" / "mine.inter").read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize("suffix", [".dat", ".txt"])
@pytest.mark.parametrize("mark", ["::", "\t", ",", ";", "|", " "])
@pytest.mark.parametrize("headless", [True, False])
def test_text_files_of_any_separator(suffix: str, mark: str, headless: bool, tmp_path: Path) -> None:
    lines = ["u|i|r|t", "1|1193|5|978300760", "1|661|3|978302109", "2|1193|4|978298413"][1 if headless else 0 :]
    text = "\n".join(lines).replace("|", mark) + "\n"
    given = {"columns": "u, i, r, t"} if headless else {}
    rows = prepared(tmp_path, f"ratings{suffix}", text, time="t", rating="r", **given)
    assert rows == [
        ["user_id:token", "item_id:token", "timestamp:float", "rating:float"],
        ["1", "1193", "978300760", "5"], ["1", "661", "978302109", "3"], ["2", "1193", "978298413", "4"],
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_without_a_header(suffix: str, tmp_path: Path) -> None:
    mark = "," if suffix == ".csv" else "\t"
    rows = prepared(tmp_path, f"log{suffix}", f"a{mark}x\nb{mark}y\n", columns="u,i")
    assert rows == [["user_id:token", "item_id:token"], ["a", "x"], ["b", "y"]]


def test_columns_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log\.csv:1: expected 3 columns, found 2"):
        prepared(tmp_path, "log.csv", "a,x\n", columns="u,i,t")
    with pytest.raises(ConfigError, match="Invalid --columns=u,u"):
        prepared(tmp_path, "log.csv", "a,x\n", columns="u,u")
    with pytest.raises(ConfigError, match="it has a, x; name its columns if it has no header line"):
        prepared(tmp_path, "log.csv", "a,x\nb,y\n")


@pytest.mark.parametrize("start", [1_600_000_000, 1_600_000_000_000, 1_600_000_000_000_000_000, -(2**61)])
def test_whole_times_keep_every_digit(start: int, tmp_path: Path) -> None:
    steps = np.random.default_rng(0).permutation(9).tolist()
    rows = prepared(tmp_path, "log.csv", "u,i,t\n" + "".join(f"a,x{step},{start + step}\n" for step in steps), time="t")
    assert rows[1:] == [["a", f"x{step}", str(start + step)] for step in range(9)]


@pytest.mark.parametrize("time", ["0.1", "1600000000.000001", "-3.5"])
def test_fractions_read_back_as_they_were(time: str, tmp_path: Path) -> None:
    rows = prepared(tmp_path, "log.csv", f"u,i,t\na,x,{time}\na,y,1600000001\n", time="t")
    assert {float(row[2]) for row in rows[1:]} == {float(time), 1600000001.0}


def test_dates_become_seconds(tmp_path: Path) -> None:
    text = "u,i,t\na,x,2020-01-02T03:04:05.000006\na,y,2020-01-02\na,z,2020-01-02 03:04:05+01:00\n"
    rows = {row[1]: float(row[2]) for row in prepared(tmp_path, "log.csv", text, time="t")[1:]}
    expected = {
        "x": "2020-01-02T03:04:05.000006+00:00",
        "y": "2020-01-02T00:00:00+00:00",
        "z": "2020-01-02T02:04:05+00:00",
    }
    assert rows == {item: datetime.fromisoformat(when).timestamp() for item, when in expected.items()}


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (("2020-01-01T00:00:00.123456789",), "neither a number nor an ISO date"),
        (("4611686018427387905",), "beyond 2^62"),
        (("1600000000000000001", "0.5"), "no number type holds exactly"),
        (("0.5", "1600000000000000001"), "no number type holds exactly"),
        (("",), "neither a number nor an ISO date"),
        (("inf",), "neither a number nor an ISO date"),
    ],
)
def test_times_that_cannot_be_kept_are_refused_by_line(times: tuple[str, ...], said: str, tmp_path: Path) -> None:
    text = "u,i,t\n" + "".join(f"a,x{number},{time}\n" for number, time in enumerate(times))
    with pytest.raises(DataError) as error:
        prepared(tmp_path, "log.csv", text, time="t")
    assert f"log.csv:{len(times) + 1}:" in str(error.value) and said in str(error.value)


@pytest.mark.parametrize(("timed", "warned"), [(True, False), (False, True)])
def test_a_ratio_split_without_times_is_warned_of(
    timed: bool, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "u,i,t\n" + "".join(f"a,x{step},{step}\n" for step in range(10))
    with caplog.at_level("WARNING"):  # a run of another test may have set the level of all messages
        prepared(tmp_path, "log.csv", text, split="ratio", **({"time": "t"} if timed else {}))
    assert ("--split=ratio without --time" in caplog.text) == warned
