"""Pictures of a grid's results."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli.program import run_verb
from recbole_kd.errors import ConfigError
from recbole_kd.experiments.grid import read_grid
from recbole_kd.experiments.plots import bars, curves, draw_grid
from tests.support.made_results import grid_of, made_up, write_grid

plot = partial(run_verb, "plot")


def with_history(result: dict[str, Any], values: list[float]) -> dict[str, Any]:
    return {**result, "distilled": {**result["distilled"], "history": {"valid_ndcg@20": values}}}


def results() -> dict[tuple[str, int], dict[str, Any]]:
    found = {
        ("ours", seed): with_history(made_up(0.3, 0.1 + seed / 4, 0.2 + seed / 4), [0.1, 0.2, 0.15]) for seed in (0, 1)
    }
    return found | {("other", 0): made_up(0.3, 0.1, 0.18)}


def test_bars_are_the_tables_rows_and_curves_those_of_the_first_seed() -> None:
    grid = grid_of("ours", "other", "not run", reference="ours")
    assert bars(grid, results()) == [
        ("teacher", [0.3]),
        ("student alone", [0.1, 0.35]),
        ("ours", [0.2, 0.45]),
        ("other", [0.18]),
    ]
    assert curves(grid, results()) == {"ours": [0.1, 0.2, 0.15]}


def test_a_picture_shows_every_row_and_is_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    grid = grid_of("ours", "other", reference="ours", published={"ours": {"ndcg@20": 0.25}})
    pictures = [tmp_path / f"{name}.svg" for name in ("one", "two")]
    for picture in pictures:
        draw_grid(grid, results(), picture)
    drawn = pictures[0].read_text()
    assert all(
        f">{word}<" in drawn
        for word in ("teacher", "student alone", "ours", "other", "test ndcg@20 (diamonds: published)")
    )
    assert "0.3250" in drawn  # the mean of ours
    assert drawn == pictures[1].read_text()


def test_the_script_draws_what_is_there_and_refuses_what_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    path = write_grid(tmp_path)
    assert plot([str(path), f"--results={tmp_path}"]) == 2
    assert "has no results in" in capsys.readouterr().err
    task = read_grid(path).tasks[0]
    file = tmp_path / task.grid / task.file_name
    file.parent.mkdir()
    file.write_text(json.dumps({**made_up(0.3, 0.1, 0.2), "settings": task.settings}))
    assert plot([str(path), f"--results={tmp_path}"]) == 0
    assert "RCE-KD" in (tmp_path / "tiny-grid.svg").read_text()


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        draw_grid(grid_of("ours"), results(), tmp_path / "x.svg")
    assert not list(tmp_path.iterdir())
