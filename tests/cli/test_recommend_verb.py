"""``recbole-kd recommend``: the lists of many users in a file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import recbole_kd
from recbole_kd.cli import recommend
from recbole_kd.cli.program import main
from tests.support.students import trained

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_file_holds_what_recommend_gives(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(recommend, "USERS_PER_BLOCK", 2)
    if form == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "users.txt").write_text("\ufeffu3\r\n\nu8\nnobody\nu1\nu3\n", encoding="utf-8")
    out = tmp_path / f"recs.{form}"
    words = ["recommend", trained("MF")["folder"], f"--users={tmp_path / 'users.txt'}", "--k=4", f"--out={out}"]
    assert main(words) == 2 and "no user 'nobody'" in capsys.readouterr().err and not out.exists()
    assert main([*words, "--unknown=skip", "--seen=protocol"]) == 0
    assert "1 of 4 users are unknown" in capsys.readouterr().out
    found = pd.read_csv(out) if form == "csv" else pd.read_parquet(out)
    expected = recbole_kd.load_student(trained("MF")["folder"]).recommend(
        ["u3", "u8", "u1"], k=4, exclude_seen="protocol"
    )
    assert list(found["user"]) == list(expected["user"]) and list(found["item"]) == list(expected["item"])
    assert (
        found["score"].to_numpy() == pytest.approx(expected["score"].to_numpy(), rel=1e-6)
        and list(found["rank"]) == [1, 2, 3, 4] * 3
    )
    before = out.read_bytes()
    assert main([*words, "--unknown=skip"]) == 2  # what is there is not replaced
    assert "did not make" in capsys.readouterr().err and out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["users.txt", out.name])


def test_all_users_by_default(tmp_path: Path) -> None:
    assert main(["recommend", trained("MF")["folder"], "--k=1", f"--out={tmp_path / 'r.csv'}"]) == 0
    assert sorted(pd.read_csv(tmp_path / "r.csv")["user"]) == sorted(
        recbole_kd.load_student(trained("MF")["folder"]).users.tokens[1:]
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--k=0", "--out=r.csv"], "Invalid --k=0"),
        (["--out=r.txt"], "ends in .parquet or .csv"),
        (["--out=r.csv", "--users=missing.txt"], "no such file"),
        (["--out=r.csv", "--users=binary.txt"], "not UTF-8"),
        (["--out=r.csv", "--users=empty.txt"], "names no user"),
        (["--out=r.csv", "--users=strangers.txt"], "leave them out (--unknown=skip)"),
        (
            ["--out=r.csv", "--users=strangers.txt", "--unknown=skip"],
            "none of its 2 users, such as '19\\u2028u1'",
        ),
        (["--out=binary.txt/r.csv"], "binary.txt is not a folder"),
        (["--out=r.csv", "--seen=some"], "invalid choice"),
    ],
)
def test_bad_words_are_a_sentence(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "strangers.txt").write_text("19\u2028u1\nnobody\n", encoding="utf-8")
    assert main(["recommend", trained("MF")["folder"], *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line and not list(tmp_path.glob("r.*"))


def test_a_folder_without_a_student_is_a_sentence(tmp_path: Path, capsys: Capture) -> None:
    assert main(["recommend", str(tmp_path), f"--out={tmp_path / 'r.csv'}"]) == 2
    assert "No student at" in capsys.readouterr().err
