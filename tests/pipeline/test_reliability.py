"""One small trial of each kind of tests/campaign: kill, damage, attack, nonsense, fault."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli.program import main
from tests.support.campaign import Home, contents, figures_of, leftovers, write_data
from tests.support.damages import damages_of
from tests.support.file_operations import Gone, killed_before, listed
from tests.support.runs import cut_after


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", write_data(tmp_path / "data"))


def test_a_run_that_is_gone_at_any_operation_goes_on(home: Home, tmp_path: Path) -> None:
    """Nothing succeeds after that operation, cleaning up neither: the disk is as after kill -9."""
    given = home.words(epochs="2")
    with listed([home.folder], tmp_path / "operations"):
        assert main(given) == 0
    wanted, lines = home.figures(), (tmp_path / "operations").read_text().splitlines()
    stages = [
        [number for number, line in enumerate(lines, 1) if f"/{stage}" in line]
        for stage in ("teacher", "student", "distilled", "saved", "trained/.")
    ]
    draw = random.Random(0)
    for numbers in stages:
        home = Home(home.folder, home.data)
        with killed_before(draw.choice(numbers), [home.folder], kill=False), pytest.raises(Gone):
            main(given)
        assert main([*given, "--resume=True"]) == 0
        assert home.figures() == wanted and home.lost() is None
        assert not [file for file in leftovers(home.cache) if "my-notes" not in file]


def test_a_damaged_file_is_made_again_or_refused(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    given = home.words(epochs="1", teacher__epochs="1", kd_compare="False")
    assert main(given) == 0
    wanted = home.figures()
    scores = next(home.cache.glob("teacher/*/scores.safetensors"))
    whole = scores.read_bytes()
    for label, damage in damages_of(scores).items():
        damage(scores, random.Random(1))
        capsys.readouterr()
        code = main(given)
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(said) == 1 and str(scores.parent) in said[0], label
        if scores.is_dir():
            scores.rmdir()
        else:
            scores.unlink(missing_ok=True)
        scores.write_bytes(whole)
    assert main(given) == 0 and home.figures() == wanted and home.lost() is None


def test_a_state_that_asks_for_code_is_refused(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = home.words(kd_compare="False")
    with monkeypatch.context() as patched:
        cut_after(1, 2, patched)
        with pytest.raises(KeyboardInterrupt):
            main(given)
    (state,) = (home.cache / "distilled").glob("*.pt")
    mark = tmp_path / "mark"
    state.write_bytes(f"cos\nsystem\n(S'touch {mark}'\ntR.".encode())
    capsys.readouterr()
    assert main([*given, "--resume=True"]) == 2
    assert "cannot be continued from" in capsys.readouterr().err and not mark.exists()


def test_nonsense_is_a_sentence(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    whole = contents(home.data)
    for key, value in {
        "seed": "nan",
        "topk": "[" * 2000,
        "eval_args": "{a",
        "kd_k": "1e400",
        "metrics": "\x00x",
        "epoch": "1",
    }.items():
        given = [word for word in home.words() if not word.startswith(f"--{key}=")]
        capsys.readouterr()
        assert main([*given, f"--{key}={value}"]) == 2, key
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and said[0].startswith("error: "), said
    assert contents(home.data) == whole and home.lost() is None


def test_an_output_that_nobody_reads_loses_no_result(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    with os.fdopen(writing, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        assert main(home.words(epochs="1", teacher__epochs="1", kd_compare="False")) == 2
    (path,) = home.saved.glob("*/result.json")
    result: dict[str, Any] = json.loads(path.read_text())
    assert figures_of(result)["distilled 0"]["test"]
