"""Grids: run, killed, resumed, skipped; the tables made from their results."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from recbole_kd.config.property_layers import properties_dir
from recbole_kd.errors import ConfigError, TrainingError
from recbole_kd.experiments import runner
from recbole_kd.experiments.grid import Grid, Task, read_grid
from recbole_kd.experiments.runner import read_results, run_grid
from recbole_kd.experiments.tables import grid_section, grid_table, rows_of
from tests.support import paths
from tests.support.fresh import Fresh
from tests.support.grid_tasks import in_this_process
from tests.support.helpers import write_tiny
from tests.support.made_results import TINY, figures, grid_of, made_up, reproduce, write_grid

ROOT = paths.ROOT


# -- grids
# --------------------------------------------------------------------------------------------------------------


def test_the_shipped_grids_are_valid_and_their_settings_are_known() -> None:
    from recbole_kd.config.property_layers import distiller_layers
    from recbole_kd.training.build_distiller import check_distiller

    paths = sorted((properties_dir() / "reproduce").glob("*.yaml"))
    assert paths
    for path in paths:
        for task in read_grid(path).tasks:
            s = task.settings
            values = {"kd_weight": 1.0, "kd_refresh": 1, "kd_compare": True}
            values |= distiller_layers(s["kd"], s["dataset"], s["model"], s.get("teacher", "lists"))[0]
            check_distiller(s["kd"], {**values, **s}, 5000, 25000)


def test_runs_that_shipped_grids_share_are_those_of_the_other_grid() -> None:
    grids = {path.stem: read_grid(path) for path in (properties_dir() / "reproduce").glob("*.yaml")}
    shared = [task for name, grid in grids.items() for task in grid.tasks if task.grid != name]
    assert shared
    for task in shared:
        assert task in grids[task.grid].tasks


def test_a_run_of_another_grid_is_read_from_its_folder_and_named_by_its_command(tmp_path: Path) -> None:
    runs = {"RCE-KD": {"from": "other-grid"}, "vanilla CE": {"kd_variant": "vanilla_ce"}}
    write_grid(tmp_path).rename(tmp_path / "other-grid.yaml")
    grid = read_grid(write_grid(tmp_path, runs=runs, seeds=[0]))
    for task in grid.tasks:
        made = {**made_up(0.3, 0.1, 0.2), "settings": task.settings, "command": f"make {task.grid}"}
        file = tmp_path / {"RCE-KD": "other-grid", "vanilla CE": "tiny-grid"}[task.run] / task.file_name
        file.parent.mkdir()
        file.write_text(json.dumps(made))
    assert [outcome.state for outcome in run_grid(grid, tmp_path, {}, command="")] == ["skipped", "skipped"]
    section = grid_section(grid, read_results(grid, tmp_path))
    assert "| RCE-KD " in section and "Made by `make other-grid` and `make tiny-grid` at" in section


def test_a_seed_is_complete_before_the_next_begins(tmp_path: Path) -> None:
    grid = read_grid(write_grid(tmp_path))
    assert [(task.run, task.seed) for task in grid.tasks] == [("RCE-KD", 0), ("vanilla CE", 0), ("RCE-KD", 1)]
    assert grid.runs == ["RCE-KD", "vanilla CE"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sedes": [1]}, r"Invalid sedes: \[1\] in .*: expected one of the keys title, config, seeds, .*Write seeds: "),
        ({"runs": None}, "Invalid runs: ~ in .*: expected a mapping"),
        (
            {"runs": {"RCE-KD": {"from": "elsewhere"}}},
            "from: elsewhere of the run 'RCE-KD' of .* is not a grid next to it: there is no elsewhere.yaml",
        ),
        (
            {"metric": "ndcg"},
            "Invalid metric: ndcg in .*: expected one of recall@10, ndcg@10, recall@20, ndcg@20. Write metric: ndcg@",
        ),
        ({"reference": "RCE"}, "reference='RCE' of .* is none of its runs: RCE-KD, vanilla CE"),
        ({"seeds": 0}, r"Invalid seeds: 0 in .*: expected a list of integers, not empty. Write seeds: \[0\]"),
        ({"seeds": []}, r"Invalid seeds: \[\] in .*: expected a list of integers, not empty. Write seeds: \[0, 1\]"),
        ({"seeds": ["a"]}, r"Invalid seeds: \[a\] in .*: expected a list of integers"),
        ({"runs": [{"RCE-KD": {}}]}, "Invalid runs: .*: expected a mapping"),
        ({"runs": {"RCE-KD": [1]}}, r"Invalid runs.RCE-KD: \[1\] in .*: expected a mapping"),
        ({"runs": {"RCE-KD": {"seeds": 1}}}, "Invalid runs.RCE-KD.seeds: 1 in .*: expected a list of integers"),
        ({"config": None}, "The run 'RCE-KD' of .* has no model: give it"),
        ({"config": {key: value for key, value in TINY.items() if key != "teacher"}}, "has no teacher: give it"),
        ({"config": "epochs"}, "Invalid config: epochs in .*: expected a mapping"),
        ({"published": [0.1]}, r"Invalid published: \[0.1\] in .*: expected a mapping"),
        ({"published": {"RCE-KD": 0.1}}, "Invalid published.RCE-KD: 0.1 in .*: expected a mapping"),
        (
            {"runs": {"A b": {}, "a  B": {}}, "reference": None},
            "'A b' and 'a  B' .* would write the same file a-b-seed0.json",
        ),
    ],
)
def test_a_wrong_grid_is_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_grid(tmp_path, **changes)
    with pytest.raises(ConfigError, match=words):
        read_grid(path)
    assert reproduce([str(path), f"--results={tmp_path / 'results'}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and not (tmp_path / "results").exists()


# -- running
# ------------------------------------------------------------------------------------------------------------


def test_a_grid_runs_through_the_script_and_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny(tmp_path / "data", "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECBOLE_KD_CACHE", str(tmp_path / "cache"))
    path = write_grid(tmp_path)
    words = [str(path), f"--data_path={tmp_path / 'data'}", f"--results={tmp_path / 'results'}"]
    names = in_this_process(monkeypatch)
    assert reproduce(words) == 0
    files = sorted((tmp_path / "results" / "tiny-grid").glob("*.json"))
    assert [file.name for file in files] == ["rce-kd-seed0.json", "rce-kd-seed1.json", "vanilla-ce-seed0.json"]
    result = json.loads(files[0].read_text())
    assert str(tmp_path) not in files[0].read_text()
    history = result["distilled"]["history"]
    assert set(history) >= {"overlap_mean", "overlap_rate", "train_ndcg@10", "valid_ndcg@20", "kd_loss"}
    assert all(len(values) == 2 for values in history.values())
    assert len(result["distilled"]["teacher_ranks"]["start"]) == 40
    table = (tmp_path / "results" / "tiny-grid.md").read_text()
    assert (
        "| RCE-KD" in table
        and "| student alone" in table
        and f"at commit {result['versions']['commit']}, on {result['versions']['device']}." in table
    )
    before = [file.stat().st_mtime_ns for file in files]
    capsys.readouterr()
    assert reproduce(words) == 0
    assert capsys.readouterr().out.count("skipped") == len(names) == 3
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_result_is_kept_without_the_places_of_its_teachers_and_assistant() -> None:
    members = [{"model": name, "path": f"/cache/{name}"} for name in ("MF", "LightGCN")]
    result = {
        "teacher": {"cached": True, "members": members},
        "assistant": {"test": {}, "path": "/cache/assistant"},
        "kd_options": {"kd_weight": 1.0, "cache_dir": "/cache"},
        "distilled": {"history": {}},
        "folder": "/saved",
    }
    kept = runner._record(Task("g", "run", 0, {}), result, "command")
    assert "/cache" not in str(kept) and "/saved" not in str(kept)
    assert [member["model"] for member in kept["teacher"]["members"]] == ["MF", "LightGCN"] and kept["assistant"] == {
        "test": {}
    }


def test_a_task_that_fails_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_task(settings: dict[str, Any]) -> dict[str, Any]:
        if settings["seed"] == 1:
            raise TrainingError("The loss is nan in epoch 3")
        return {**made_up(0.3, 0.1, 0.2), "kd_options": {}}

    def in_this_process(waiting: Any) -> Any:
        for task, settings in waiting:
            yield (task, *runner._outcome(lambda settings=settings: run_task(settings)))

    monkeypatch.setattr(runner, "_one_by_one", in_this_process)
    assert reproduce([str(write_grid(tmp_path)), f"--results={tmp_path / 'results'}"]) == 1
    assert "RCE-KD seed 1: failed The loss is nan in epoch 3" in capsys.readouterr().out
    assert len(list((tmp_path / "results" / "tiny-grid").glob("*.json"))) == 2


def test_a_run_ends_with_the_process_that_was_killed(tmp_path: Path) -> None:
    """Else it would go on beside the run that continues it, and both would write the same state."""
    script, child = tmp_path / "parent.py", tmp_path / "child.pid"
    script.write_text(
        "import os, pathlib, sys, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from recbole_kd.distributed.children import fresh_processes\n"
        "from recbole_kd.experiments.runner import end_with_parent\n"
        "def work(path):\n"
        "    pathlib.Path(path + '.part').write_text(str(os.getpid()))\n"
        "    os.replace(path + '.part', path)\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    with ProcessPoolExecutor(1, fresh_processes(), initializer=end_with_parent) as pool:\n"
        "        pool.submit(work, sys.argv[1]).result()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(tmp_path / "said", "w") as said:
        with Fresh([str(script), str(child)], tmp_path, environment, said.fileno(), said.fileno()):
            wait_until(child.is_file, 120)
            run = psutil.Process(int(child.read_text()))
        run.wait(30)  # its parent has been killed


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not so after {seconds} s"
        time.sleep(0.05)


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    grid = read_grid(write_grid(tmp_path))
    file = tmp_path / grid.name / "rce-kd-seed0.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"settings": {**grid.tasks[0].settings, "kd_k": 7}}))
    with pytest.raises(ConfigError, match="was made with other settings than the grid has now"):
        list(run_grid(grid, tmp_path, {}, command=""))
    with pytest.raises(ConfigError, match="was made with other settings"):
        read_results(grid, tmp_path)
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"is not a result .* delete it"):
        read_results(grid, tmp_path)


@pytest.mark.parametrize("words", [["nowhere.yaml"], [], ["--what", "x"]])
def test_bad_words_are_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1


# -- tables
# -------------------------------------------------------------------------------------------------------------


def test_mean_deviation_gain_and_p_value() -> None:
    grid = grid_of("ours", "other", seeds=(0, 1, 2), reference="ours", published={"ours": {"ndcg@20": 0.25}})
    results = {("ours", seed): made_up(0.3, 0.10, value) for seed, value in enumerate((0.20, 0.21, 0.22))}
    results |= {("other", seed): made_up(0.3, 0.10, value) for seed, value in enumerate((0.18, 0.20, 0.19))}
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in grid_table(grid, results).splitlines()
    }
    assert lines["ours"][:2] == ["0, 1, 2", "0.2100 ± 0.0100"]
    assert lines["ours"][6] == "0.2500" and lines["ours"][9] == "+110.0 %" and lines["ours"][10] == ""
    # differences .02 .01 .03: t = mean / (sd / sqrt 3) = 3.464, two degrees of freedom, p = .0742
    assert lines["other"][10] == "0.074"
    assert lines["teacher"][1] == "0.3000" and lines["student alone"][0] == "0, 1, 2"


def test_a_run_is_compared_with_its_own_student_alone() -> None:
    settings = {
        "ours": {"weight_decay": 0.1, "kd_weight": 3},
        "other": {"epochs": 5},
        "third": {"weight_decay": 0.1, "teacher_store": "dense"},
    }
    grid = Grid("g", "G", [Task("g", run, 0, {"seed": 0, **own}) for run, own in settings.items()], reference="ours")
    results = {(run, 0): made_up(0.3, alone, 0.2) for run, alone in (("other", 0.16), ("ours", 0.1), ("third", 0.1))}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in grid_table(grid, results).splitlines()[2:]]
    of = {row[0]: row for row in rows}
    assert [row[0] for row in rows[1:3]] == ["student alone", "student alone, default weight_decay, epochs=5"]
    assert (of["student alone"][2], of["student alone, default weight_decay, epochs=5"][2]) == ("0.1000", "0.1600")
    assert (of["ours"][10], of["other"][10], of["third"][10]) == ("+100.0 %", "+25.0 %", "+100.0 %")


def test_students_alone_of_the_same_keys_and_other_figures_have_their_own_rows() -> None:
    results = {(run, 0): made_up(0.3, alone, 0.2) for run, alone in (("ours", 0.1), ("other", 0.16))}
    names = [
        line.split("|")[1].strip()
        for line in grid_table(grid_of("ours", "other", seeds=(0,)), results).splitlines()[2:]
    ]
    assert names == ["teacher", "student alone", "student alone, of other", "ours", "other"]


def test_teachers_of_a_grid_have_their_own_rows() -> None:
    results = {
        (run, seed): made_up(0.3 if run == "ours" else 0.4, 0.1, 0.2) for run in ("other", "ours") for seed in (0, 1)
    }
    found = rows_of(grid_of("other", "ours", reference="ours"), results)
    assert list(found) == ["teacher", "teacher of other", "student alone", "other", "ours"]
    assert [found[name][0]["test"]["ndcg@20"] for name in ("teacher", "teacher of other")] == [0.3, 0.4]


def test_a_side_without_the_metric_has_empty_cells() -> None:
    result, of_other = made_up(0.3, 0.1, 0.2), made_up(0.3, 0.1, 0.2)
    for made in (result, of_other):
        made["teacher"].update(valid=None, test=None)
    result["distilled"]["test"] = {"ndcg@10": 0.2}
    grid = grid_of("ours", "other", seeds=(0,), reference="other")
    _, _, teacher, _, ours, other = grid_table(grid, {("ours", 0): result, ("other", 0): of_other}).splitlines()
    assert set(teacher.replace("|", " ").split()) == {"teacher", "0", "3", "0.50"}
    assert "%" not in ours and "+100.0 %" in other
    assert "Best other row" not in grid_section(grid, {("ours", 0): result})


def test_each_published_metric_has_its_column() -> None:
    grid = grid_of("ours", published={"teacher": {"recall@20": 0.183}, "ours": {"ndcg@20": 0.25}})
    header, _, teacher, _, ours = grid_table(grid, {("ours", 0): made_up(0.3, 0.1, 0.2)}).splitlines()
    names = [name.strip() for name in header.split("|")]
    for row, recall, ndcg in ((teacher, "0.1830", ""), (ours, "", "0.2500")):
        cells = dict(zip(names, (cell.strip() for cell in row.split("|")), strict=True))
        assert (cells["published recall@20"], cells["published ndcg@20"]) == (recall, ndcg)


def test_gains_are_of_the_grids_metric() -> None:
    result = made_up(0.3, 0.1, 0.2)
    for side in ("student", "distilled"):
        result[side]["test"] = {**result[side]["test"], "ndcg@10": 0.4}
        result[side]["valid"] = {**result[side]["valid"], "ndcg@10": 0.7}
    table = grid_table(grid_of("ours", metric="ndcg@10"), {("ours", 0): result})
    header, *_, ours = table.splitlines()
    assert "valid ndcg@10" in header and "published ndcg@10" in header
    assert " 0.7000 " in ours and "+0.0 %" in ours


def test_what_was_not_run_is_named() -> None:
    grid = grid_of("ours", "other", reference="ours")
    section = grid_section(grid, {("ours", 0): made_up(0.3, 0.1, 0.2)})
    assert "Not run yet: ours (seed 1), other (seed 0), other (seed 1)." in section
    assert grid_section(grid, {}).endswith("Not run yet.\n")


def test_a_training_that_the_clock_ended_is_named() -> None:
    result = made_up(0.3, 0.2, 0.25)
    result["distilled"]["stopped_by"] = "max_minutes"
    section = grid_section(grid_of("a", seeds=(0,)), {("a", 0): result})
    assert "Ended by its cap of minutes, not by its patience: a (seed 0, 3 epochs)." in section
    result["distilled"]["stopped_by"] = "stopping_step"
    assert "cap of minutes" not in grid_section(grid_of("a", seeds=(0,)), {("a", 0): result})


def test_dynamics_are_read_from_the_histories() -> None:
    from recbole_kd.experiments.epoch_curves import at_share, dynamics_section

    grid = grid_of("ours", seeds=(0,))
    assert [at_share([1.0, 2.0, 3.0, 4.0, 5.0], share) for share in (2, 20, 60, 100)] == [1.0, 1.0, 3.0, 5.0]
    result = made_up(0.3, 0.1, 0.2)
    result["distilled"] |= {
        "history": {"overlap_rate": [0.1 * place for place in range(11)], "overlap_mean": [0.5] * 11},
        "teacher_ranks": {"start": [float(k) for k in range(1, 51)], "end": [1.0] * 50},
    }
    section = dynamics_section(grid, {("ours", 0): result})
    assert "OR@20 %" in section and "The overlap in gamma, mean" in section
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in section.splitlines()
        if line.startswith("|")
    }
    assert cells["ours, seed 0, start"] == ["1", "5", "10", "20", "50"] and cells["ours, seed 0, end"] == ["1"] * 5
    assert (
        dynamics_section(grid, {("ours", 0): {**made_up(0.3, 0.1, 0.2), "distilled": {**figures(0.2), "history": {}}}})
        == ""
    )
