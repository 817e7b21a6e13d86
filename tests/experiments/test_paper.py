"""The paper's tables as cells: numbers, matching of results, the list, a run, the page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli import reproduce_paper
from recbole_kd.experiments import runner
from recbole_kd.experiments.grid import Task
from recbole_kd.experiments.paper.cells import ALONE, TEACHER, Cell, Choice, DataSet, Paper, Table, read_paper
from recbole_kd.experiments.paper.data_check import check_data
from recbole_kd.experiments.paper.matching import Match, defaults_of, find, read_finished
from recbole_kd.experiments.paper.page import page
from recbole_kd.experiments.paper.progress import grid_of, progress, run_name, time_in_words
from recbole_kd.training.build_distiller import check_distiller
from tests.support.helpers import write_tiny
from tests.support.made_results import TINY, made_up, reproduce
from tests.support.paths import ROOT

RESULTS = ROOT / "results"
MF_MF = Choice(("table-1",), ("citeulike",), ("MF-MF",))


@pytest.fixture(scope="module")
def paper() -> Paper:
    return read_paper()


def cell_of(paper: Paper, row: str, table: str = "table-1", data: str = "citeulike", pair: str = "MF-MF") -> Cell:
    """The cell of that name; an extra row too."""
    return next(cell for cell in paper.cells(Choice((table,), (data,), (pair,)), extras=True) if cell.row == row)


def write_result(folder: Path, cell: Cell, seed: int = 0, value: float = 0.2, **changes: Any) -> None:
    """Write a finished run of a cell; a change is one of its settings, or ``result``."""
    more = changes.pop("result", {})
    settings = {**cell.settings, **changes, "seed": seed}
    run = run_name(cell) + "".join(f" {key} {settings[key]}" for key in changes)
    task = Task("made", run, seed, settings)
    made = {"grid": "made", "run": run, "settings": settings, "seed": seed, "setting": cell.settings["setting"]}
    made |= {**made_up(0.3, 0.1, value), "eval_protocol": "paper", **more}
    file = folder / "made" / task.file_name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(made))


def match_of(folder: Path, cell: Cell, paper: Paper, *, exact: bool = False) -> Match | None:
    return find(cell, read_finished(folder), paper, exact=exact)


# -- the tables
# ------------------------------------------------------------------------------------------------------------


def test_every_table_has_the_papers_number_of_cells(paper: Paper) -> None:
    counts = Counter(cell.table.key for cell in paper.cells())
    assert counts == {
        "table-1": 90, "table-7": 15, "table-8": 27, "table-9": 18, "table-10": 18, "table-12": 90, "table-15": 24,
        "figure-3": 36, "figure-5": 30, "figure-6": 90, "figure-7": 75, "figure-8": 75,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("table", "data", "pair", "row", "numbers"),
    [
        ("table-1", "citeulike", "MF-MF", "RCE-KD", [0.0278, 0.0152, 0.0431, 0.0194]),
        ("table-1", "gowalla", "HSTU-HSTU", "DCD", [0.1060, 0.0857, 0.1541, 0.1021]),
        ("table-1", "yelp2018", "HSTU-MF", "RCE-KD", [0.0485, 0.0316, 0.0805, 0.0419]),
        ("table-1", "yelp2018", "LightGCN-MF", TEACHER, [0.0432, 0.0276, 0.0716, 0.0367]),
        ("table-1", "citeulike", "LightGCN-MF", "TARec", [0.0254, 0.0137, 0.370, 0.0173]),  # a misprint, as printed
        ("table-7", "gowalla", "LightGCN-LightGCN", "RCE-KD", [0.60, 0.90, 0.96]),
        ("table-8", "yelp2018", "HSTU-HSTU", "increasing", [0.0717, 0.0366]),
        ("table-9", "citeulike", "LightGCN-LightGCN", "user-specific", [0.0363, 0.0164]),
        ("table-10", "gowalla", "MF-MF", "exponential", [0.1525, 0.1047]),
        ("table-12", "citeulike", "SASRec-SASRec", ALONE, [0.0054, 0.0042]),
        ("table-12", "yelp2018", "HSTU-MF", "HetComp", [0.0163, 0.0089]),
        ("table-15", "netflix", "BM3-MF", "PromptMM", [0.1732, 0.0728]),
        ("table-15", "electronics", "BM3-LightGCN", "RCE-KD", [0.0359, 0.0153]),
    ],
)
def test_published_numbers_are_those_of_the_paper(
    paper: Paper, table: str, data: str, pair: str, row: str, numbers: list[float]
) -> None:
    assert paper.numbers(paper.tables[table], data, pair, row) == numbers


def test_every_published_number_belongs_to_a_cell_and_every_cell_of_a_table_has_its_numbers(paper: Paper) -> None:
    cells = {(c.table.key, c.data.key, c.pair, c.row): c for c in paper.cells() if c.table.key in paper.published}
    known = {
        (table, data, pair, row): numbers
        for table, by_data in paper.published.items()
        for data, by_pair in by_data.items()
        for pair, rows in by_pair.items()
        for row, numbers in rows.items()
    }
    assert set(cells) == {key for key in known if key[-1] not in (TEACHER, ALONE)}
    assert all(len(numbers) == len(paper.tables[key[0]].columns) for key, numbers in known.items())


def test_every_generated_run_has_settings_that_its_method_accepts(paper: Paper) -> None:
    checked = set()
    for cell in paper.cells(extras=True):
        if (name := (cell.data.key, cell.pair, run_name(cell))) not in checked:
            checked.add(name)
            values = {"kd_weight": 1.0, "kd_refresh": 1, "kd_compare": True, **defaults_of(cell), **cell.settings}
            options = {key: value for key, value in values.items() if key.startswith("kd_")}
            check_distiller(cell.settings["kd"], options, 5000, 25000)


def test_one_run_serves_the_cells_of_several_tables(paper: Paper) -> None:
    rows = [("RCE-KD", "table-1"), ("exponential", "table-10"), ("RCE-KD", "figure-6"), ("lambda 500", "figure-7")]
    assert {run_name(cell_of(paper, row, table)) for row, table in rows} == {"RCEKD"}
    assert run_name(cell_of(paper, "lambda 5", "figure-7")) == "RCEKD, weight 5.0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--table=2"], "Invalid --table=2: expected one of 1, 7, 8, 9, 10, 12, 15. Try --table=1."),
        (["--figure=9"], "Invalid --figure=9: expected one of 3, 5, 6, 7, 8. Try --figure=3."),
        (["--table=1", "--data=citulike"], "expected one of citeulike, gowalla, yelp2018. Try --data=citeulike."),
        (["--table=15", "--data=citeulike"], "expected one of netflix, tiktok, electronics. Try --data="),
        (["--table=1", "--pair=MF-LightGCN"], "Invalid --pair=MF-LightGCN: expected one of MF-MF, LightGCN-Light"),
        (["--table=1", "--method=RCEKD"], "CD, RRD, DCD, HetComp, TARec, RCE-KD. Try --method=RCE-KD."),
        (["--seeds=a"], "Invalid --seeds=a: expected whole numbers from 0, separated by commas. Try --seeds=0,1."),
        (["--plan", "--page"], "not allowed with argument"),
        (["--table=12,15", "--data=tiktok", "--pair=MF-MF"], "No cell of Table 12, Table 15 has all of data tiktok"),
    ],
)
def test_a_wrong_name_is_refused_in_one_sentence_with_the_allowed_ones(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(["paper", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


# -- matching
# --------------------------------------------------------------------------------------------------------------


def test_committed_results_are_recognised(paper: Paper) -> None:
    finished = read_finished(RESULTS)
    rce = find(cell_of(paper, "RCE-KD"), finished, paper)
    assert rce is not None and {0, 1, 2} <= set(rce.runs) and rce.differences == {"stopping_step": (99, 29)}
    assert rce.runs[0].result["distilled"]["test"]["ndcg@20"] == pytest.approx(0.0202046261)
    wide = find(cell_of(paper, "RCE-KD", pair="LightGCN-MF"), finished, paper)
    assert wide is not None and wide.differences["teacher_config.embedding_size"] == (400, 2000)
    gowalla = find(cell_of(paper, "RCE-KD", data="gowalla"), finished, paper)
    assert gowalla is not None and "random split" in gowalla.other_data and not gowalla.exact
    sequential = find(cell_of(paper, "RCE-KD", "table-12", pair="HSTU-HSTU"), finished, paper)
    assert sequential is not None
    for row, table in (("w/o T", "figure-6"), ("global", "table-9"), ("L 100", "figure-7"), ("CD", "table-1")):
        assert find(cell_of(paper, row, table), finished, paper) is not None
    # all train rows, 64 wide: another experiment
    assert find(cell_of(paper, "RCE-KD", data="gowalla", pair="LightGCN-MF"), finished, paper) is None


def test_a_run_that_differs_in_a_key_without_a_reason_is_another_experiment(paper: Paper, tmp_path: Path) -> None:
    cell = cell_of(paper, "RCE-KD")
    for changes in ({"kd_weight": 5.0}, {"learning_rate": 0.1}, {"teacher_config": {"n_layers": 2}}):
        write_result(tmp_path, cell, **changes)
    assert match_of(tmp_path, cell, paper) is None
    write_result(tmp_path, cell, stopping_step=99)
    found = match_of(tmp_path, cell, paper)
    assert found is not None and found.differences == {"stopping_step": (99, 29)}
    assert match_of(tmp_path, cell, paper, exact=True) is None


def test_a_default_or_neutral_key_that_a_run_names_makes_no_difference(paper: Paper, tmp_path: Path) -> None:
    cell = cell_of(paper, "RCE-KD")
    write_result(tmp_path, cell, kd_gamma="exponential", kd_weight=500.0, kd_track=["bound"], stopping_step=29)
    found = match_of(tmp_path, cell, paper, exact=True)
    assert found is not None and found.exact


def test_of_several_settings_of_a_baseline_the_best_on_validation_is_taken_never_on_test(
    paper: Paper, tmp_path: Path
) -> None:
    cell = cell_of(paper, "CD")
    low, high = ({"ndcg@20": value, "recall@20": value, "ndcg@10": 0.1, "recall@10": 0.1} for value in (0.1, 0.9))
    write_result(tmp_path, cell, kd_weight=5.0, result={"distilled": {"valid": high, "test": low}})
    write_result(tmp_path, cell, kd_weight=9.0, result={"distilled": {"valid": low, "test": high}})
    found = match_of(tmp_path, cell, paper)
    assert found is not None and found.tuned == {"kd_weight": 5.0}


def test_a_cap_that_ended_no_training_is_no_difference(paper: Paper, tmp_path: Path) -> None:
    cell = cell_of(paper, "RCE-KD")
    stopped = {"student": {**made_up(0, 0.1, 0)["student"], "stopped_by": "stopping_step"}}
    for by, seed in (("stopping_step", 0), ("max_minutes", 1)):
        distilled = {"distilled": {**made_up(0, 0, 0.2)["distilled"], "stopped_by": by}}
        write_result(tmp_path / by, cell, seed, max_minutes=60.0, result={**stopped, **distilled})
    assert match_of(tmp_path / "stopping_step", cell, paper, exact=True) is not None
    capped = match_of(tmp_path / "max_minutes", cell, paper)
    assert capped is not None and set(capped.differences) == {"max_minutes"}


def test_a_result_on_other_data_is_marked(paper: Paper, tmp_path: Path) -> None:
    cell = cell_of(paper, "RCE-KD", data="gowalla")
    chronological = {"users": 29858, "items": 40988, "train": 810128, "valid": 100508, "test": 116828}
    random = {"users": 29858, "items": 40981, "train": 720114, "valid": 90014, "test": 217242}
    for name, counts in (("paper", chronological), ("lightgcn", random)):
        write_result(tmp_path / name, cell, result={"data": counts})
    right, wrong = (match_of(tmp_path / name, cell, paper) for name in ("paper", "lightgcn"))
    assert right is not None and right.exact
    assert wrong is not None and wrong.other_data == paper.data["gowalla"].other
    choice = Choice(("table-1",), ("gowalla",), ("MF-MF",), ("RCE-KD",))
    finished = read_finished(tmp_path / "lightgcn")
    assert [len(progress(paper, finished, choice, [0, 1], other_data=other)[0].missing) for other in (0, 1)] == [2, 1]


def test_a_damaged_result_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "x-seed0.json").write_text('{"grid": "g", "run": "r", "settings": {}, "distilled": {}}')
    assert reproduce(["paper", "--plan", f"--results={tmp_path}"]) == 2
    assert "x-seed0.json is not a result of a run" in capsys.readouterr().err


# -- the list, and what is missing
# ----------------------------------------------------------------------------------------


def test_the_plan_lists_done_and_missing_with_time_and_command(
    paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(5):
        write_result(tmp_path, cell_of(paper, "RCE-KD"), seed)
    write_result(tmp_path, cell_of(paper, "DCD"), 0)
    words = ["paper", "--table=1", "--data=citeulike", "--plan", f"--results={tmp_path}"]
    assert reproduce([*words, "--pair=MF-MF,HSTU-MF"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    by_row = {line.partition(":")[0]: line for line in lines}
    assert by_row["Table 1 | CiteULike | MF-MF | RCE-KD"].endswith("done: seeds 0, 1, 2, 3, 4")
    assert by_row["Table 1 | CiteULike | MF-MF | DCD"].endswith(
        "done: seeds 0; missing: seeds 1, 2, 3, 4, time: 1 min: "
        "recbole-kd reproduce paper --table=1 --data=citeulike --pair=MF-MF --method=DCD --seeds=1,2,3,4"
    )
    assert "nothing done; missing: seeds 0, 1, 2, 3, 4, time: unknown: " in by_row["Table 1 | CiteULike | HSTU-MF | CD"]
    assert lines[-1] == "1 of 12 cells are done; 54 runs are missing, time: 1 min and 30 runs of unknown time"


def test_a_missing_seed_has_the_settings_of_the_finished_ones_and_another_cell_the_papers(
    paper: Paper, tmp_path: Path
) -> None:
    cell = cell_of(paper, "RCE-KD")
    write_result(tmp_path, cell, 0, stopping_step=99)
    by_row = {state.cell.row: state for state in progress(paper, read_finished(tmp_path), MF_MF, [0, 1])}
    (task,) = by_row["RCE-KD"].missing
    assert (task.grid, task.seed, task.settings) == ("made", 1, {**cell.settings, "stopping_step": 99, "seed": 1})
    first, second = by_row["CD"].missing
    assert first.settings == {**cell_of(paper, "CD").settings, "seed": 0} and second.seed == 1
    assert first.grid == "paper-citeulike-mf-mf" and first.file_name == "cd-seed0.json"
    strict = {s.cell.row: s for s in progress(paper, read_finished(tmp_path), MF_MF, [0], exact=True)}
    assert strict["RCE-KD"].missing[0].settings == {**cell.settings, "seed": 0}


def test_times_are_means_of_finished_cells_of_the_same_data_and_pair(paper: Paper, tmp_path: Path) -> None:
    for seed, epochs in ((0, 100), (1, 300)):
        figures = {**made_up(0, 0, 0.2)["distilled"], "epochs": epochs, "seconds_per_epoch": 36.0}
        write_result(tmp_path, cell_of(paper, "RCE-KD"), seed, result={"distilled": figures})
    states = {state.cell.row: state for state in progress(paper, read_finished(tmp_path), MF_MF, [0, 1, 2])}
    assert states["RCE-KD"].seconds == states["CD"].seconds == 200 * 36.0
    assert time_in_words([states["RCE-KD"]]) == "2.0 h" and time_in_words([states["CD"]]) == "6.0 h"
    other = progress(paper, read_finished(tmp_path), Choice(("table-1",), ("yelp2018",), ("MF-MF",)))
    assert time_in_words(other) == "unknown"


def test_a_grid_has_each_run_once(paper: Paper, tmp_path: Path) -> None:
    choice = Choice(("table-1", "table-10", "figure-6"), ("citeulike",), ("MF-MF",), ("RCE-KD", "exponential"))
    grid = grid_of(progress(paper, read_finished(tmp_path), choice, [0, 1]), paper)
    assert [(task.run, task.seed) for task in grid.tasks] == [("RCEKD", 0), ("RCEKD", 1)]


# -- data
# ------------------------------------------------------------------------------------------------------------------


def test_data_that_are_missing_or_not_the_papers_are_refused_before_anything_is_run(
    paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["paper", "--table=1", "--data=gowalla", f"--results={tmp_path}", f"--data_path={tmp_path / 'data'}"]
    words += [f"--page_file={tmp_path / 'page.md'}"]
    assert reproduce(words) == 2
    assert "The data set gowalla is not prepared in " in capsys.readouterr().err
    folder = tmp_path / "data" / "gowalla"
    folder.mkdir(parents=True)
    counts = {"users": 29858, "items": 40981, "interactions": 1027370}
    (folder / "prepared.json").write_text(json.dumps({"counts": {"all": counts, "test": {"interactions": 217242}}}))
    assert reproduce(words) == 2
    err = capsys.readouterr().err
    assert "217,242 test rows, the paper's Gowalla" in err and "--form=split" in err and "--other_data" in err
    assert not (tmp_path / "page.md").exists()
    check_data([cell_of(paper, "CD", data="gowalla")], tmp_path / "data", other_data=True)


# -- a run
# -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_paper(paper: Paper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paper:
    """A paper of one table on generated data, whose runs stay in this process."""

    def here(waiting: Any, log: Path | None = None) -> Iterator[tuple[Task, Any, str]]:
        yield from ((task, runner.JOBS[task.stage](settings), "") for task, settings in waiting)

    write_tiny(tmp_path / "data", "tiny")
    config = {**TINY, "setting": "general", "epochs": 1, "use_gpu": False, "kd_compare": False}
    own = {key: config.pop(key) for key in ("kd", "kd_k", "kd_n_samples", "kd_candidates", "kd_track")}
    for key in ("model", "teacher", "dataset"):
        del config[key]
    table = Table("table-1", "Table 1, tiny", config, ["tiny"], ["MF-MF"], ["ndcg@10", "ndcg@20"], {"RCE-KD": own})
    data = DataSet("tiny", "Tiny", "recbole-kd prepare tiny", {"users": 30, "items": 40, "interactions": 442})
    tiny = replace(paper, seeds=(0,), data={"tiny": data}, tables={"table-1": table}, published={})
    monkeypatch.setattr(reproduce_paper, "read_paper", lambda: tiny)
    monkeypatch.setattr(runner, "_one_by_one", here)
    monkeypatch.chdir(tmp_path)  # its cache is here
    return tiny


def test_a_generated_cell_runs_is_recognised_and_is_in_the_page(
    tiny_paper: Paper, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["paper", "--table=1", "--method=RCE-KD", "--run", f"--data_path={tmp_path / 'data'}"]
    assert reproduce(words) == 0
    assert "[paper-tiny-mf-mf 1/1]" in capsys.readouterr().out
    (path,) = (tmp_path / "results" / "paper-tiny-mf-mf").glob("*.json")
    result = json.loads(path.read_text())
    assert result["data"]["users"] == 30 and result["data"]["items"] == 40 and result["distilled"]["epochs"] == 1
    assert result["command"].startswith("recbole-kd reproduce paper --table=1 --method=RCE-KD")
    text = (tmp_path / "docs" / "reproduction.md").read_text()
    assert f"|  | RCE-KD | {_short(result, 'ndcg@10')} | {_short(result, 'ndcg@20')} |" in text
    assert reproduce([*words[:3], "--plan"]) == 0
    assert "1 of 1 cells are done; 0 runs are missing, time: none" in capsys.readouterr().out


def _short(result: dict[str, Any], metric: str) -> str:
    return f"{result['distilled']['test'][metric]:.4f}".replace("0.", ".", 1)


# -- the page
# ---------------------------------------------------------------------------------------------------------------


def test_the_committed_page_is_that_of_the_committed_results(paper: Paper) -> None:
    committed = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    assert committed == page(paper, read_finished(RESULTS)), "run `recbole-kd reproduce paper --page`"


def test_a_page_of_somebody_else_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "reproduction.md"
    target.write_text("mine")
    assert reproduce(["paper", "--page", f"--page_file={target}", f"--results={tmp_path}"]) == 2
    assert "--page_file" in capsys.readouterr().err and target.read_text() == "mine"
