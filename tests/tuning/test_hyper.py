"""RecBole's HyperTuning over kd parameters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli.run import main as run_main
from recbole_kd.cli.tune import main
from recbole_kd.tuning import hyperopt
from recbole_kd.tuning import study as study_module
from recbole_kd.tuning.hyperopt import hyperopt_space
from recbole_kd.tuning.space import Parameter, Space
from recbole_kd.tuning.study import Study, Trial
from tests.support import paths
from tests.support.runs import results, words

ROOT = paths.ROOT


def search(folder: Path, space: str, *more: str, name: str = "space.hyper") -> int:
    (folder / name).write_text(space)
    kept = [word for word in words(folder) if not word.startswith(("--kd_k=", "--kd_n_samples="))]
    return main([*kept, "--kd_n_samples=5", "--study=s", f"--params_file={folder / name}", *more])


def trials(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "saved" / "s" / "trials.json").read_text())["trials"]
    return found


def test_six_trials_on_validation_and_the_best_file_repeats_its_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = "kd_k choice [3, 5, 8]\nkd_weight choice [0.5, 50]\n"
    assert search(tmp_path, space, f"--output_file={tmp_path / 'made' / 'hyper.result'}") == 0
    found = trials(tmp_path)
    assert len(found) == 6 and {(t["settings"]["kd_k"], t["settings"]["kd_weight"]) for t in found} == {
        (k, w) for k in (3, 5, 8) for w in (0.5, 50)
    }
    assert all(t["state"] == "done" and t["score"] == t["valid"]["ndcg@10"] and t["test"] for t in found)
    best = max(found, key=lambda t: t["score"])
    printed = capsys.readouterr().out
    assert "Best configuration" in printed and f"{best['score']:.4f}" in printed
    written = (tmp_path / "made" / "hyper.result").read_text()
    assert "Valid result:" in written and "Test result:" in written
    assert len(list((tmp_path / "cache" / "teacher").glob("*.lock"))) == 1  # one teacher for all
    assert run_main([f"--config_files={tmp_path / 'saved' / 's' / 'best.yaml'}"]) == 0
    again = results(tmp_path)[-1]
    assert again["distilled"]["valid"] == best["valid"] and again["distilled"]["test"] == best["test"]
    assert again["student"] is not None  # the search left it out, a run reports it


@pytest.mark.parametrize("algo", ["random", "bayes"])
def test_the_other_algorithms_search_ranges_the_same_way_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algo: str
) -> None:
    def run_trial(base: Any, settings: dict[str, Any], after_epoch: Any = None) -> Trial:
        return Trial(
            settings,
            "done",
            1 / (1 + abs(settings["kd_k"] - 12)),
            True,
            3,
            "ndcg@10",
            {"ndcg@10": 0.1},
            {"ndcg@10": 0.2},
        )

    monkeypatch.setattr(hyperopt, "run_trial", run_trial)
    space = "kd_k: {int: [3, 30]}\nkd_weight: {loguniform: [0.5, 50]}\n"
    found = []
    for place in ("a", "b"):
        folder = tmp_path / place
        folder.mkdir()
        assert search(folder, space, f"--algo={algo}", "--max_evals=25", "--early_stop=25", name="space.yaml") == 0
        found.append([t["settings"] for t in trials(folder)])
    assert found[0] == found[1] and len(found[0]) == 25
    assert all(type(s["kd_k"]) is int and 3 <= s["kd_k"] <= 30 and 0.5 <= s["kd_weight"] <= 50 for s in found[0])


@pytest.mark.parametrize("algo", ["random", "exhaustive"])
def test_finished_trials_are_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], algo: str
) -> None:
    space, more = "kd_k choice [3, 5, 8, 9]\nkd_weight choice [0.5, 50.1]\n", [f"--algo={algo}"]
    more += ["--max_evals=4"] if algo == "random" else ["--early_stop=4"]
    plain, settings_run, cut = hyperopt.run_trial, list[Any](), [3]

    def counted(base: Any, settings: dict[str, Any]) -> Trial:
        if len(settings_run) + 1 == cut[0]:
            raise KeyboardInterrupt
        settings_run.append(dict(settings))
        return plain(base, settings)

    monkeypatch.setattr(hyperopt, "run_trial", counted)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, space, *more)
    first = trials(tmp_path)
    cut[0] = 99
    assert search(tmp_path, space, *more, "--resume=True") == 0
    resumed = trials(tmp_path)
    assert len(first) == 2 and resumed[:2] == first
    assert len(settings_run) == len(resumed) == len({json.dumps(settings) for settings in settings_run}) > 2
    assert search(tmp_path, space, *more, "--resume=True") == 0
    assert trials(tmp_path) == resumed and len(settings_run) == len(resumed)
    capsys.readouterr()
    assert search(tmp_path, space, *more) == 2
    assert "is there already: continue it with --resume=True" in capsys.readouterr().err and trials(tmp_path) == resumed
    for other, words_ in ((space, ["--learning_rate=0.1"]), (space.replace("0.5", "0.6"), [])):
        capsys.readouterr()
        assert search(tmp_path, other, *more, "--resume=True", *words_) == 2
        said = capsys.readouterr().err
        assert "saved/s was made with other keys" in said and "--study=NAME" in said and trials(tmp_path) == resumed


def test_a_trial_that_fails_fails_alone_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(tmp_path, "kd_weight choice [1, 1e38]\nkd_k choice [5, 41]\n") == 0
    out = capsys.readouterr().out
    found = trials(tmp_path)
    states = {(t["settings"]["kd_weight"], t["settings"]["kd_k"]): t for t in found}
    assert len(found) == 4 and states[1, 5]["state"] == "done"
    assert states[1, 41]["state"] == "failed" and "kd_k=41" in states[1, 41]["reason"] and "kd_k=41" in out
    assert states[1e38, 5]["state"] == "failed" and "DivergedError" in states[1e38, 5]["reason"]


def test_no_trial_done_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(tmp_path, "kd_k choice [41, 42]\n") == 1
    assert "error: none of 2 trials was done" in capsys.readouterr().err
    assert not (tmp_path / "saved" / "s" / "best.yaml").exists()


def test_a_metric_to_be_minimised(tmp_path: Path) -> None:
    study = Study({"model": "MF"}, tmp_path)
    study.trials = [Trial({"a": a}, "done", score, False) for a, score in ((1, 0.5), (2, 0.1), (3, 0.3))]
    study.trials.append(Trial({"a": 4}, "failed", reason="nan"))
    assert study.best is not None and study.best.settings == {"a": 2}
    from recbole_kd.tuning.hyperopt import _as_recbole

    assert _as_recbole(study.trials[3], study)["best_valid_score"] == -study_module.FAILED


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--algo=all"], "Invalid --algo=all: expected one of exhaustive, random, bayes"),
        (["--tool=Tune"], "Invalid --tool=Tune: expected one of Hyperopt, Ray"),
        (["--max_evals=0"], "Invalid --max_evals=0: expected an integer of at least 1. Try --max_evals=20."),
        (["--max_evals=5"], "max_evals=5 has no effect with algo=exhaustive, which tries every combination"),
        (["--scheduler=FIFO"], "scheduler=FIFO has no effect with tool=Hyperopt: leave it out, or take --tool=Ray"),
        (
            ["--tool=Ray", "--algo=bayes"],
            "algo=bayes has no effect with tool=Ray: leave it out, or take --tool=Hyperopt",
        ),
        (["--kd_kk=3"], "did you mean 'kd_k'"),
        (["--params_file=nowhere.hyper"], "nowhere.hyper cannot be read"),
    ],
)
def test_bad_words_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], text: str
) -> None:
    (tmp_path / "s.yaml").write_text("kd_k: {choice: [3]}\n")
    given = [] if more[0].startswith("--params_file") else [f"--params_file={tmp_path / 's.yaml'}"]
    assert main([*words(tmp_path), *given, *more]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and text in err


def test_an_exhaustive_search_needs_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(tmp_path, "kd_beta uniform 1,3\n") == 2
    assert "algo=exhaustive needs a choice for every key and kd_beta has a range" in capsys.readouterr().err


@pytest.mark.parametrize("algo", ["exhaustive", "random"])
def test_choices_between_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algo: str) -> None:
    def run_trial(base: Any, settings: dict[str, Any], after_epoch: Any = None) -> Trial:
        return Trial(settings, "done", 0.1, True, 3, "ndcg@10", {"ndcg@10": 0.1}, {"ndcg@10": 0.2})

    monkeypatch.setattr(hyperopt, "run_trial", run_trial)
    more = ["--algo=random", "--max_evals=9"] if algo == "random" else []
    cuts: list[Any] = [[10], [10, 20]]
    assert search(tmp_path, "topk choice [[10], [10, 20]]\nkd_weight choice [1, 2]\n", *more) == 0
    found = [trial["settings"] for trial in trials(tmp_path)]
    assert {json.dumps(s["topk"]) for s in found} == {json.dumps(cut) for cut in cuts}
    assert all(s["topk"] in cuts and s["kd_weight"] in (1, 2) for s in found)


def test_natural_ends_become_logarithms_for_hyperopt() -> None:
    from hyperopt.pyll.stochastic import sample

    space = Space(
        [
            Parameter("a", "loguniform", (0.5, 4.0)),
            Parameter("b", "logint", (2, 9)),
            Parameter("c", "exponent", (-1, 0)),
        ]
    )
    import numpy as np

    drawn = [sample(hyperopt_space(space), np.random.RandomState(seed)) for seed in range(50)]
    assert all(0.5 <= d["a"] <= 4 and 1.9 <= d["b"] <= 9.1 and 0.36 <= d["c"] <= 1 for d in drawn)
    assert {type(space.settings(d, None)["b"]) for d in drawn} == {int}


@pytest.mark.slow
def test_recboles_hypertuning_from_the_command_line(tmp_path: Path) -> None:
    """Six trials of the paper's grid on ml-100k, drawn at random, by RecBole's own .hyper file."""
    space = ROOT / "properties" / "tune" / "RCEKD.hyper"
    command = [
        sys.executable, str(ROOT / "scripts" / "run_hyper_kd.py"), "--tool=Hyperopt", "--algo=random", "--max_evals=6",
        "--study=s",
        f"--params_file={space}", "--model=MF", "--teacher=MF", "--kd=RCEKD", "--dataset=ml-100k",
        "--embedding_size=8", "--epochs=3",
        "--teacher.embedding_size=16", "--teacher.epochs=2", "--show_progress=False",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--output_dir={tmp_path / 'saved'}",
    ]  # fmt: skip
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    found = trials(tmp_path)
    assert len(found) == 6 and all(t["state"] == "done" and t["score"] == t["valid"][t["metric"]] for t in found)
    assert all(t["test"] and t["test"] != t["valid"] for t in found)  # beside it, and not what is searched
    best = max(found, key=lambda t: t["score"])
    assert run_main([f"--config_files={tmp_path / 'saved' / 's' / 'best.yaml'}", "--kd_compare=False"]) == 0
    assert results(tmp_path)[-1]["distilled"]["valid"] == best["valid"]
    assert len(list((tmp_path / "cache" / "teacher").glob("*.lock"))) == 1
