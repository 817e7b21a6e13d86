"""A table of the user's own, from csv to a distilled student by the commands that README and `prepare` print."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli.program import main
from tests.support.paths import ROOT
from tests.support.runs import SHORT

START = 1_700_000_000
TIMES = {
    "ISO dates": lambda when: datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
    "unix seconds": str,
    "milliseconds": lambda when: str(1000 * when),
}


def write_log(path: Path, kind: str) -> None:
    """Write rows out of order; the times alone decide the split."""
    rows = [
        (f"u{user}", f"i{item}", START + 40_000 * user + 997 * ((17 * item) % 40))
        for item in range(40)
        for user in range(24)
        if (item + user) % 2 == 0 and (7 * item + 3 * user) % 5
    ]
    lines = ["uid,sku,ts", *(f"{user},{item},{TIMES[kind](when)}" for user, item, when in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def readme_command(verb: str) -> list[str]:
    """Return the words of README's command on own data, without the name of the program."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^recbole-kd ({verb} (?:mine|.*--dataset=mine).*)$", text, re.MULTILINE)
    return shlex.split(found)


def test_a_table_becomes_a_student_whatever_its_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    small = [word for word in SHORT if not word.startswith(("--eval_args", "--load_col"))]
    found = {}
    for kind in TIMES:
        folder = tmp_path / kind
        folder.mkdir()
        monkeypatch.chdir(folder)
        write_log(folder / "log.csv", kind)
        assert main(readme_command("prepare")) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        command = shlex.split(last.removeprefix("next: recbole-kd "))
        assert last.startswith("next: ") and command == readme_command("run")
        assert main([*command, *small, f"--cache_dir={folder / 'cache'}"]) == 0
        assert "split 8:1:1 by time within each user" in capsys.readouterr().err
        (result,) = (folder / "saved").glob("*/result.json")
        assert (result.parent / "student").is_dir()
        found[kind] = json.loads(result.read_text())["distilled"]["test"]
    assert found["ISO dates"] == found["unix seconds"] == found["milliseconds"]
