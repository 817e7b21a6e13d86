"""The bench of kd_weight=auto: its data, its runs and its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli.grids import named_grid
from recbole_kd.cli.program import main
from recbole_kd.config.property_layers import has_weight_of_pair, properties_dir
from recbole_kd.experiments.grid import Grid
from recbole_kd.experiments.weight_bench import MADE, NAME, OWN, section, with_weights, write_data
from recbole_kd.training.weight_trials import GRID, grid_of

WEIGHTS = grid_of(2.0)


def made(task: Any, valid: float, test: float, choice: float | None = None, teacher: float = 0.3) -> dict[str, Any]:
    """A result whose student alone has .1 on validation and .2 on test."""

    def figures(first: float, second: float) -> dict[str, Any]:
        return {"valid": {"ndcg@10": first}, "test": {"ndcg@10": second}, "epochs": 40, "seconds_per_epoch": 0.5}

    search = {
        "grid": WEIGHTS, "scores": [None, 0.1, 0.1, 0.1, 0.1, 0.1, None], "epochs": [0, 2, 2, 4, 8, 40, 0],
        "choice": choice, "at_end": choice == WEIGHTS[5], "worthwhile": True,
    }  # fmt: skip
    return {
        "settings": task.settings, "seed": 0, "valid_metric_bigger": True, "teacher": figures(teacher, 0.3),
        "student": figures(0.1, 0.2), "distilled": figures(valid, test), "versions": {"commit": "abc", "device": "cpu"},
        "verdict": {"code": "helped"}, **({"kd_weight_search": search} if choice else {}),
    }  # fmt: skip


@pytest.fixture
def cells() -> Grid:
    """The shipped cells, the first two of them."""
    grid = named_grid(NAME)
    return Grid(grid.name, grid.title, grid.tasks[:2], metric=grid.metric)


def test_the_cells_have_no_known_weight() -> None:
    tasks = named_grid(NAME).tasks
    assert len(tasks) == 14 and all(task.settings["kd_weight"] == "auto" for task in tasks)
    for task in tasks:
        s = task.settings
        assert not has_weight_of_pair(s["kd"], s["dataset"], s["model"], s["teacher"])


def test_seven_weights_follow_from_the_search_of_a_cell(cells: Grid) -> None:
    first = cells.tasks[0]
    found = with_weights(cells, {(first.run, 0): made(first, 0.2, 0.3, WEIGHTS[4])})
    assert [task.settings["kd_weight"] for task in found.tasks] == WEIGHTS
    assert {task.settings["teacher"] for task in found.tasks} == {first.settings["teacher"]}
    assert len({task.file_name for task in found.tasks}) == 7


def test_the_page_compares_the_choice_with_the_best_weight_by_validation(cells: Grid) -> None:
    one, two = cells.tasks
    results: dict[tuple[str, int], Any] = {
        (one.run, 0): made(one, 0.2, 0.3, WEIGHTS[4]),
        (two.run, 0): made(two, 0.1, 0.2, WEIGHTS[5], teacher=0.1005),
    }
    metric = next(iter(results[one.run, 0]["teacher"]["valid"]))
    results[one.run, 0]["teacher"]["valid_as_student"] = {metric: 0.35}  # of a teacher of another family
    for task in with_weights(cells, {(one.run, 0): results[one.run, 0]}).tasks:
        at = WEIGHTS.index(task.settings["kd_weight"])
        results[task.run, 0] = made(task, 0.1 + at / 100, 0.32 if at == 6 else 0.5)
    page = section(cells, results)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ml")]
    assert rows[0] == [
        one.run, ".3500", ".1000", "10", ".2000", ".3000", "1000", ".1600", ".3200", "-6.2 %", "+50.0 %", "48 / 8",
        "28", "140", "helped",
    ]  # fmt: skip
    assert rows[1][6:10] == [""] * 4 and rows[1][-1] == "helped, teacher no better"
    assert "1 cells: -6.2 %" in page and f"that were tried: {two.run}." in page


def test_the_table_is_made_from_results_alone(tmp_path: Path, cells: Grid) -> None:
    first = cells.tasks[0]
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / first.file_name).write_text(json.dumps(made(first, 0.2, 0.3, WEIGHTS[4])), encoding="utf-8")
    assert main(["reproduce", NAME, "--table", f"--results={tmp_path}"]) == 0
    page = (tmp_path / f"{NAME}.md").read_text(encoding="utf-8")
    assert first.run in page and "Not run yet" in page and len(GRID) == 7
    file = properties_dir() / "reproduce" / f"{NAME}.yaml"  # the command that makes all tables again
    assert main(["reproduce", str(file), "--table", f"--results={tmp_path}"]) == 0
    assert (tmp_path / f"{NAME}.md").read_text(encoding="utf-8") == page
    (tmp_path / f"{NAME}.md").write_text("mine\n", encoding="utf-8")
    assert main(["reproduce", NAME, "--table", f"--results={tmp_path}"]) == 2


def test_the_data_are_made_once_and_are_the_same_each_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_data(tmp_path / folder)
    files = [(tmp_path / folder / MADE / f"{MADE}.inter").read_bytes() for folder in ("a", "b")]
    assert files[0] == files[1]
    rows = [line.split("\t") for line in files[0].decode().splitlines()[1:]]
    assert len(rows) == 600 * 30 == len({(user, item) for user, item, _ in rows})
    own = tmp_path / "a" / OWN / f"{OWN}.inter"
    assert len(own.read_text(encoding="utf-8").splitlines()) == 100_001
    own.write_text("kept", encoding="utf-8")
    write_data(tmp_path / "a")
    assert own.read_text(encoding="utf-8") == "kept"
