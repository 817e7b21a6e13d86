"""recbole-kd compare: a tiny comparison from the words to the table, continued, searched, and refused."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_kd.cli import compare_search
from recbole_kd.cli.compare import read_comparison
from recbole_kd.cli.compare_search import draw_candidates
from recbole_kd.cli.program import run_verb
from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_arguments
from recbole_kd.experiments import runner
from recbole_kd.experiments.comparison_figures import figures_of
from recbole_kd.experiments.tables import ALONE
from recbole_kd.pipeline.quick_start import run_recbole_kd
from recbole_kd.tuning.space import Parameter, Space
from tests.support.grid_tasks import in_this_process
from tests.support.helpers import write_tiny
from tests.support.runs import words as run_words

Capture = pytest.CaptureFixture[str]
SECONDS = ("seconds_per_epoch",)


def words(folder: Path, *more: str, kd: str | None = "RCEKD,RRD", seed: str | None = "0,1") -> list[str]:
    given = run_words(folder, kd=kd, seed=seed)
    return [*(word for word in given if not word.startswith("--show_progress")), *more]


def folder_of(folder: Path) -> Path:
    (found,) = (folder / "saved").glob("compare-*")
    return found


def table_of(folder: Path) -> list[dict[str, str]]:
    with open(folder_of(folder) / "table.csv", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in SECONDS} for row in csv.DictReader(file)]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tasks are run in this process, and their names are noted as they end."""
    return in_this_process(monkeypatch)


def results_of(folder: Path, grid: str = "results") -> dict[tuple[str, int], dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (folder_of(folder) / grid).glob("*.json")]
    return {(result["run"], result["settings"]["seed"]): result for result in found}


# -- whole comparisons ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        assert run_verb("compare", words(folder)) == 0
    return folder


def test_a_comparison_leaves_table_csv_and_results(done: Path) -> None:
    folder = folder_of(done)
    assert folder.name.startswith("compare-MF-LightGCN-tiny-")
    results = results_of(done)
    assert set(results) == {(run, seed) for run in (ALONE, "RCEKD", "RRD") for seed in (0, 1)}
    rows = {row["row"]: row for row in table_of(done) if row["metric"] == "ndcg@10"}
    for f in figures_of(["RCEKD", "RRD"], "ndcg@10", results):
        assert float(rows[f.row]["mean"]) == f.mean and int(rows[f.row]["n"]) == f.n
    assert {row["metric"] for row in table_of(done)} == {"ndcg@10", "ndcg@20", "recall@10", "recall@20"}
    table = (folder / "table.txt").read_text()
    assert table.startswith("tiny, MF (4) under LightGCN (8), 2 seeds, test NDCG@10") and "Holm-corrected" in table
    assert max(map(len, table.splitlines())) <= 120
    assert (folder / "report.html").is_file() and len(list((folder / "runs").glob("*/result.json"))) == 4
    assert not list((folder / "runs").rglob("report.html"))  # 5 MB each; `recbole-kd report` makes one


def test_all_methods_share_the_teacher_and_the_student_alone(done: Path) -> None:
    results = results_of(done)
    assert len(list((done / "cache" / "teacher").glob("*.lock"))) == 1
    assert len(list((done / "cache" / "student").glob("*.lock"))) == 2
    assert len({result["teacher"]["test"]["ndcg@10"] for (run, _), result in results.items() if run != ALONE}) == 1
    assert all(result["student"] is None for (run, _), result in results.items() if run != ALONE)


def test_the_figures_are_those_of_recbole_kd_run(done: Path) -> None:
    values = parse_arguments(run_words(done, kd="RCEKD", seed="1", output_dir=str(done / "single")))
    single = run_recbole_kd(config_dict=values)
    compared = results_of(done)
    assert single["distilled"]["test"] == compared["RCEKD", 1]["distilled"]["test"]
    assert single["student"]["test"] == compared[ALONE, 1]["student"]["test"]
    assert single["teacher"]["test"] == compared["RCEKD", 1]["teacher"]["test"]


def test_the_same_comparison_again_repeats_nothing(done: Path, trained: list[str], capsys: Capture) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder_of(done).glob("results/*.json")}
    assert run_verb("compare", words(done)) == 0
    assert trained == [] and capsys.readouterr().out.count("done before") == 6
    assert {path: path.stat().st_mtime_ns for path in folder_of(done).glob("results/*.json")} == before


def test_a_further_seed_and_another_order_repeat_nothing(done: Path, trained: list[str]) -> None:
    assert run_verb("compare", words(done, kd="RRD,RCEKD", seed="1,0,2")) == 0
    assert sorted(trained) == ["RCEKD 2", "RRD 2", f"{ALONE} 2"]


def test_other_keys_have_a_folder_of_their_own(done: Path) -> None:
    def named(*more: str) -> str:
        values = merge_sources(None, None, parse_arguments(words(done, *more)))
        return Path(read_comparison(values, None, allow_code=False).local["output_dir"]).parent.name

    same = folder_of(done).name
    assert named() == same == named("--eval_batch_size=64")
    others = [
        named("--teacher.weight_decay=0.1"),
        named("--dropout_prob=0.5"),
        named("--split_seed=3", "--weight_decay=1"),
    ]
    assert len({same, *others}) == 4


def test_an_interrupted_comparison_goes_on_to_the_same_table(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(task: Any) -> None:
        if (task.run, task.seed) == ("RRD", 0):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        first = in_this_process(patch, interrupt)
        assert run_verb("compare", words(tmp_path)) == 130
    assert first == [f"{ALONE} 0", "RCEKD 0"] and not (folder_of(tmp_path) / "table.csv").exists()
    then = in_this_process(monkeypatch)
    assert run_verb("compare", words(tmp_path)) == 0
    assert then == ["RRD 0", f"{ALONE} 1", "RCEKD 1", "RRD 1"]
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        assert run_verb("compare", words(done)) == 0
    assert table_of(tmp_path) == table_of(done)


def test_a_method_that_fails_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(task: Any) -> None:
        if task.run == "RRD":
            monkeypatch.setitem(runner.JOBS, "distilled", _nan)

    in_this_process(monkeypatch, fail)
    assert run_verb("compare", words(tmp_path, seed="0")) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "RRD, seed 0: failed ValueError: the loss is nan" in out
    assert "warning: not done: RRD (seed 0); the same command continues." in out
    assert {row["row"] for row in table_of(tmp_path)} == {"teacher", ALONE, "RCEKD"}


def _nan(settings: Mapping[str, Any]) -> dict[str, Any]:
    raise ValueError("the loss is nan")


def test_metrics_and_topk_decide_the_columns(tmp_path: Path, trained: list[str]) -> None:
    more = ["--metrics=[MRR, Hit]", "--topk=[5]", "--valid_metric=MRR@5"]
    assert run_verb("compare", words(tmp_path, *more, kd="RCEKD", seed="0")) == 0
    assert {row["metric"] for row in table_of(tmp_path)} == {"mrr@5", "hit@5"}
    assert "test MRR@5" in (folder_of(tmp_path) / "table.txt").read_text()


# -- grids and searches -----------------------------------------------------------------------------------------------


def test_a_grid_gives_methods_settings_of_their_own(tmp_path: Path, trained: list[str]) -> None:
    runs = {"short lists": {"kd": "RCEKD", "kd_k": 3}, "long lists": {"kd": "RCEKD", "kd_k": 7}}
    grid = tmp_path / "mine.yaml"
    grid.write_text(yaml.safe_dump({"config": {"kd_n_samples": 5}, "seeds": [3], "runs": runs}))
    given = [word for word in words(tmp_path, kd=None, seed=None) if not word.startswith(("--kd_k", "--kd_n_samples"))]
    assert run_verb("compare", [*given, f"--grid={grid}"]) == 0
    assert sorted(trained) == ["long lists 3", "short lists 3", f"{ALONE} 3"]
    results = results_of(tmp_path)
    assert results["short lists", 3]["kd_options"]["kd_k"] == 3 and results["long lists", 3]["kd_options"]["kd_k"] == 7


def test_a_budget_tries_as_many_settings_of_each_and_chooses_on_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = dict(runner.JOBS)

    def made(stage: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        def job(settings: Mapping[str, Any]) -> dict[str, Any]:
            result = plain[stage]({**settings, "epochs": 1})
            rate = float(settings["learning_rate"])
            result[stage]["valid"]["ndcg@10"] = 1 - rate  # the smaller rate is better on validation
            result[stage]["test"]["ndcg@10"] = 1e6 * rate  # and far worse on test, which must not matter
            return result

        return job

    monkeypatch.setattr(runner, "JOBS", {stage: made(stage) for stage in plain})
    names = in_this_process(monkeypatch)
    given = words(tmp_path)
    assert run_verb("compare", [*given, "--budget=3"]) == 0
    record = json.loads((folder_of(tmp_path) / "settings.json").read_text())
    assert set(record["rows"]) == {ALONE, "RCEKD", "RRD"} and record["seed"] == 0
    for row, found in record["rows"].items():
        tried = [one["settings"] for one in found["tried"]]
        assert len(tried) == 3 and len({json.dumps(settings, sort_keys=True) for settings in tried}) == 3
        assert found["valid"] == max(one["valid"] for one in found["tried"])
        assert found["chosen"]["learning_rate"] == min(settings["learning_rate"] for settings in tried)
        assert row != ALONE or set(found["chosen"]) == {"learning_rate", "weight_decay"}
    for (run, _), result in results_of(tmp_path).items():
        assert record["rows"][run]["chosen"].items() <= result["settings"].items()
    assert len([name for name in names if ", settings " in name]) == 9
    assert "Settings chosen on validation NDCG@10" in (folder_of(tmp_path) / "table.txt").read_text()
    names.clear()
    assert run_verb("compare", [*given, "--budget=3"]) == 0 and names == []


def test_what_is_typed_is_not_searched(tmp_path: Path) -> None:
    given = words(tmp_path, "--learning_rate=0.01")
    comparison = read_comparison(merge_sources(None, None, parse_arguments(given)), None, allow_code=False)
    candidates = draw_candidates(comparison, 4)
    assert [len(tried) for tried in candidates.values()] == [3, 4, 4], "three values of weight_decay are all there are"
    typed = {"learning_rate", "kd_k", "kd_n_samples", "kd_candidates"}
    assert not any(typed & settings.keys() for tried in candidates.values() for settings in tried)
    assert candidates == draw_candidates(comparison, 4), "the draws are seeded"


def test_settings_that_the_data_refuse_are_not_drawn(tmp_path: Path) -> None:
    given = [word for word in words(tmp_path, kd="RRD") if not word.startswith("--kd_n_samples")]
    space = Space([Parameter("kd_n_samples", "int", (1, 400))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_search, "_space_of", lambda method: space)
        comparison = read_comparison(
            merge_sources(None, None, parse_arguments([*given, "--kd_n_samples=5"])), None, allow_code=False
        )
        drawn = draw_candidates(comparison, 6)["RRD"]
    assert len(drawn) == 6 and all(settings["kd_n_samples"] <= 40 for settings in drawn)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "kd", "seed", "said"),
    [
        ([], None, "0", "--kd is missing: name the methods to compare"),
        ([], "RCEKD,RCEKD", "0", "Invalid --kd=RCEKD,RCEKD: it names RCEKD twice. Try --kd=RCEKD."),
        ([], "RCEKD,,RRD", "0", "Invalid --kd=RCEKD,,RRD: expected methods"),
        ([], "RCEKD,RDD", "0", "Unknown kd 'RDD'"),
        ([], "RCEKD,RRD", "0,0", "Invalid --seed=0,0: expected different integers"),
        ([], "RCEKD,RRD", "0,x", "Invalid --seed=0,x: expected integers with commas between them. Try --seed=0,1,2."),
        ([], "RCEKD,RRD", "-1", "Invalid --seed=[-1]: expected"),
        (["--budget=0"], "RCEKD,RRD", "0", "Invalid --budget=0: expected an integer of at least 1"),
        (["--resume=True"], "RCEKD", "0", "Invalid --resume=True: it has no effect on a comparison"),
        (["--kd_compare=False"], "RCEKD", "0", "Invalid --kd_compare=False: it has no effect on a comparison"),
        (["--grid=nowhere.yaml"], None, "0", "No grid at nowhere.yaml"),
        (["--grid=nowhere.yaml"], "RCEKD", "0", "it has no effect beside --grid=nowhere.yaml"),
        (["--kd_beta=2"], "RCEKD,RRD", "0", "kd_beta"),
        (["--dataset=tinny"], "RCEKD,RRD", "0", "twice"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    more: list[str], kd: str | None, seed: str, said: str, tmp_path: Path, capsys: Capture
) -> None:
    assert run_verb("compare", words(tmp_path, *more, kd=kd, seed=seed)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not (tmp_path / "saved").exists() and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"runs": {"a": {"kd": "nobody:Method"}}}, "--allow_code"),
        ({"runs": {"a": {"kd": "RCEKD"}, "b": {"kd": "RRD", "topk": [5]}}}, "put topk into `config`"),
        ({"runs": {"a": {"kd": "RCEKD", "kd_k": 3}}}, "--kd_k=5 has no effect on the run 'a'"),
        ({"runs": {ALONE: {"kd": "RCEKD"}}}, "has the name of the student's own row"),
        ({"runs": {"a": {}}}, "has no kd"),
    ],
)
def test_a_wrong_grid_is_one_sentence(content: dict[str, Any], said: str, tmp_path: Path, capsys: Capture) -> None:
    grid = tmp_path / "mine.yaml"
    grid.write_text(yaml.safe_dump(content))
    assert run_verb("compare", [*words(tmp_path, kd=None), f"--grid={grid}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not (tmp_path / "saved").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, trained: list[str], capsys: Capture) -> None:
    given = words(tmp_path, kd="RCEKD", seed="0")
    assert run_verb("compare", given) == 0
    (folder_of(tmp_path) / "notes.txt").write_text("mine")
    assert run_verb("compare", given) == 2
    assert "notes.txt" in capsys.readouterr().err and (folder_of(tmp_path) / "notes.txt").read_text() == "mine"


# -- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_tasks_run_in_processes_of_their_own_whose_words_go_to_a_file(tmp_path: Path, capfd: Any) -> None:
    assert run_verb("compare", words(tmp_path, kd="RCEKD", seed="0")) == 0
    out, err = capfd.readouterr()
    assert "[2/2] RCEKD, seed 0: done" in out and "MF (4) + RCEKD" not in out + err
    assert "MF (4) + RCEKD" in (folder_of(tmp_path) / "output.log").read_text()


@pytest.mark.slow
@pytest.mark.scale
def test_on_ray_the_table_is_that_of_one_process(done: Path, tmp_path: Path) -> None:
    import ray

    from tests.support import paths

    environment = {"env_vars": {"PYTHONPATH": str(paths.ROOT)}}
    ray.init(
        num_cpus=2, object_store_memory=2**27, include_dashboard=False, log_to_driver=False, runtime_env=environment
    )
    try:
        assert run_verb("compare", words(tmp_path, "--ray_address=local", "--cpus_per_task=0.5")) == 0
    finally:
        ray.shutdown()
    write_tiny(tmp_path / "again", "tiny")
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        assert run_verb("compare", words(done)) == 0
    assert table_of(tmp_path) == table_of(done)
