"""The notebooks of the documentation run, are short, and hold outputs that name nobody's machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT
from tests.support.scripts import script

NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
MOST_CELLS, MOST_BYTES = 15, 200_000
MACHINE = re.compile(r"(?<![\w.])/(home|root|tmp|work|Users|usr|opt|var)/|https?://(?!127\.0\.0\.1)[\w.-]*pypi|\x1b")
MARKDOWN_LINK = re.compile(r"\]\(([^)#:]+)(#[^)]*)?\)")


def cells_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


def source_of(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@pytest.mark.docs
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_each_cell_shows_what_the_committed_one_shows(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="needs the extra docs")
    made = script("run_tutorials").executed(path, tmp_path)
    shown = [sorted({output["output_type"] for output in cell.get("outputs", [])}) for cell in made.cells]
    kept = [sorted({output["output_type"] for output in cell.get("outputs", [])}) for cell in cells_of(path)]
    assert shown == kept, "run python scripts/run_tutorials.py docs/tutorials/*.ipynb"


def test_the_four_tutorials_are_in_the_navigation() -> None:
    content = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"tutorials/([\w-]+)\.ipynb", str(yaml.safe_load(content)["nav"])))
    assert named == {path.stem for path in NOTEBOOKS} and len(NOTEBOOKS) >= 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_was_run_in_order(path: Path) -> None:
    cells = cells_of(path)
    assert len(cells) < MOST_CELLS and path.stat().st_size < MOST_BYTES
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell["outputs"]) for cell in code) >= len(code) / 2
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_names_nobodys_machine(path: Path) -> None:
    for cell in cells_of(path):
        found = MACHINE.search(json.dumps(cell.get("outputs", []), ensure_ascii=False) + source_of(cell))
        assert found is None, (path.name, found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_to_files_that_are_there(path: Path) -> None:
    targets = [
        t
        for cell in cells_of(path)
        if cell["cell_type"] == "markdown"
        for t, _ in MARKDOWN_LINK.findall(source_of(cell))
    ]
    assert targets and all((path.parent / target).exists() for target in targets), targets
