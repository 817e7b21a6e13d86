"""A teacher of the same training rows but other validation and test rows is refused, by path and from the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from recbole_kd.cli.run import main
from tests.support.helpers import write_tiny
from tests.support.runs import results, words

PUBLISHED = "--benchmark_filename=[train,valid,test]"


def published(folder: Path, exchanged: bool) -> None:
    """Write the tiny data as a published split; ``exchanged`` swaps its validation and test rows."""
    write_tiny(folder / "data", "tiny")
    place = folder / "data" / "tiny"
    header, *rows = (place / "tiny.inter").read_text().splitlines()
    parts = {"train": [], "valid": rows[8::10], "test": rows[9::10]}
    parts["train"] = [row for number, row in enumerate(rows) if number % 10 < 8]
    if exchanged:
        parts["valid"], parts["test"] = parts["test"], parts["valid"]
    for name, lines in parts.items():
        (place / f"tiny.{name}.inter").write_text("\n".join([header, *lines, ""]))


def run_of(folder: Path, **changes: str | None) -> int:
    given = words(folder, kd_compare="False", **changes)
    return main([*(word for word in given if not word.startswith("--eval_args")), PUBLISHED])


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of the split and of the exchanged one, after a run on each."""
    folders = tmp_path / "one", tmp_path / "other"
    for folder, exchanged in zip(folders, (False, True), strict=True):
        published(folder, exchanged)
        assert run_of(folder) == 0
    return folders


def test_a_teacher_by_path_is_refused(both: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    one, other = both
    (result,) = results(one)
    changes = {"teacher": None, "teacher.epochs": None, "teacher.embedding_size": None}
    assert run_of(other, teacher_path=result["teacher"]["path"], **changes) == 2
    assert "was made on other data" in capsys.readouterr().err


def test_a_teacher_in_the_cache_is_refused(both: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    one, other = both
    (theirs,), (own,) = results(one), results(other)
    shutil.rmtree(own["teacher"]["path"])
    shutil.copytree(theirs["teacher"]["path"], own["teacher"]["path"])
    assert run_of(other) == 2
    assert "was made on other data" in capsys.readouterr().err
