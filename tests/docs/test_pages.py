"""Every page of the documentation: its examples run, its links lead somewhere, its lines are short."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from markdown.extensions.toc import slugify

from recbole_kd.pipeline.quick_start import run_recbole_kd
from tests.support.doc_pages import CODE, PageRunner, blocks_of
from tests.support.paths import ROOT
from tests.support.scripts import script

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
WITH_EXAMPLES = [page for page in PAGES if any(block.language in CODE for block in blocks_of(page))]
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(#[^)]*)?\)")
PART = re.compile(r"\[[^\]]*\]\(([^)#:]*)#([^)]+)\)")
LONGEST = 120
MOST_WORDS = 60
"""In a cell of a table."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with one finished run and its cache, and the run's path in it."""
    place = tmp_path_factory.mktemp("finished")
    small = {"epochs": 1, "teacher_config": {"epochs": 1}, "show_progress": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return place, str(run_recbole_kd("MF", "LightGCN", "RCEKD", "ml-100k", config_dict=small)["folder"])


@pytest.fixture
def run_folder(finished: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The finished run in a working folder of this page's own: no page sees what another has written."""
    made, run = finished
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return run


@pytest.mark.docs
@pytest.mark.parametrize("page", [*WITH_EXAMPLES, ROOT / "README.md"], ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page: Path, run_folder: str) -> None:
    runner = PageRunner(run_folder)
    for block in blocks_of(page):
        if block.reason is None and (block.language in CODE or block.file):
            runner(block)


def test_at_most_a_fifth_of_the_code_is_not_run() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page) if block.language in CODE and block.file is None]
    not_run = [block for block in blocks if block.reason is not None]
    assert len(not_run) <= len(blocks) / 5, [(block.line, block.reason) for block in not_run]


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "results" / "README.md"], ids=lambda page: page.name
)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_links_to_parts_of_pages_name_a_heading() -> None:
    for page in [*PAGES, ROOT / "README.md", ROOT / "results" / "README.md"]:
        for target, part in PART.findall(page.read_text(encoding="utf-8")):
            of = page.parent / target if target else page
            headings = re.findall(r"^#+ (.+)$", of.read_text(encoding="utf-8"), re.MULTILINE)
            assert part in {slugify(heading, "-") for heading in headings}, f"{page.name} links to {target}#{part}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_lines_are_short_outside_tables_and_code(page: Path) -> None:
    code = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        code ^= line.startswith("```")
        assert code or line.startswith("|") or len(line) <= LONGEST, f"{page.name}:{number}"


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "results" / "README.md"], ids=lambda page: page.name
)
def test_no_cell_of_a_table_is_longer_than_60_words(page: Path) -> None:
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert not [cell for row in rows for cell in row.strip("|").split("|") if len(cell.split()) > MOST_WORDS]


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200 and len(text.split()) <= 2200


def test_every_page_is_in_the_navigation() -> None:
    content = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w-]+\.md", str(content["nav"])))
    assert named == {page.name for page in PAGES}


def test_yaml_of_the_pages_is_yaml() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "yaml":
                assert yaml.safe_load(block.text), f"{page.name}:{block.line}"


def test_the_page_of_options_is_that_of_the_property_files() -> None:
    page = script("make_options_page").page()
    assert (DOCS / "options.md").read_text(encoding="utf-8") == page, "run python scripts/make_options_page.py"
