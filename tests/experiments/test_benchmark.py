"""The benchmark: made data, phases that add up and change nothing, floors, one whole command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch

from recbole_kd.cli.benchmark import parse
from recbole_kd.cli.program import run_verb
from recbole_kd.distiller.rd import RD
from recbole_kd.distiller.registry import DISTILLERS
from recbole_kd.errors import ConfigError
from recbole_kd.experiments.benchmarks import growth
from recbole_kd.experiments.benchmarks.cases import Case, build, phase_seconds, work_of
from recbole_kd.experiments.benchmarks.floors import FLOORS, Machine, Work, floors, measure
from recbole_kd.experiments.benchmarks.growth import (
    AXES,
    BASE,
    arithmetic,
    bytes_needed,
    exponent,
    largest,
    markdown,
    measure_all,
    slope,
)
from recbole_kd.experiments.benchmarks.made_data import counts_of, make_pairs, width_of, write_dataset, write_teacher
from recbole_kd.experiments.benchmarks.phases import PHASES, Clock, timed
from recbole_kd.experiments.benchmarks.rows import measured
from recbole_kd.experiments.benchmarks.wide import time_wide
from tests.support import paths
from tests.support.scripts import script

SCRIPTS = paths.ROOT / "scripts"
SIZE = "30x40x300"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    where = tmp_path_factory.mktemp("made")
    write_teacher(write_dataset(SIZE, where), 16)
    yield str(where)


OPTIONS = {"kd_k": 5, "kd_n_samples": 5, "kd_candidates": 10, "train_batch_size": 64}


def case(folder: str, **changes: Any) -> Any:
    return replace(Case("MF", "RCEKD", SIZE, folder, 8, dict(OPTIONS)), **changes)


# -- data
# -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_users", "n_items", "count"), [(50, 30, 400), (60, 90, 100), (90, 60, 90), (7, 9, 40)])
def test_pairs_are_distinct_and_cover_users_and_items(n_users: int, n_items: int, count: int) -> None:
    pairs = make_pairs(n_users, n_items, count, np.random.default_rng(0))
    assert pairs.shape == (count, 2) and len(np.unique(pairs, axis=0)) == count
    assert set(pairs[:, 0]) == set(range(n_users)) and set(pairs[:, 1]) == set(range(n_items))


def test_free_sizes_have_bounded_evaluations() -> None:
    n_users, n_items, (train, valid, test) = counts_of("1e6x1e6x1e6")
    assert (n_users, n_items, train) == (10**6, 10**6, 10**6) and valid == test and valid * n_items <= 2 * 10**9
    assert width_of("gowalla", None) == 2000 and width_of("1e6x1e6x1e6", None) == 64 and width_of("gowalla", 8) == 8


@pytest.mark.parametrize("size", ["citeulik", "3x4", "1e7x10x1e7", "100x100x20", "10x10x1e6", "1.5x2x3"])
def test_sizes_that_cannot_be_are_refused(size: str) -> None:
    with pytest.raises(ConfigError, match=f"--size={size} is not"):
        counts_of(size)


# -- phases
# ---------------------------------------------------------------------------------------------------------------


def test_a_phase_inside_another_stops_its_clock() -> None:
    clock = Clock(torch.device("cpu"))
    with clock.phase("outer"):
        sleep(0.02)
        with clock.phase("inner"):
            sleep(0.03)
            clock.switch("second")
            sleep(0.01)
        sleep(0.02)
    assert 0.04 <= clock.seconds["outer"] < 0.06
    assert 0.03 <= clock.seconds["inner"] < 0.045 and 0.01 <= clock.seconds["second"] < 0.025


@pytest.mark.parametrize(
    ("model", "kd"), [("MF", "RCEKD"), ("LightGCN", "RCEKD"), ("MF", "CE"), ("MF", None), ("MF", "alone")]
)
def test_phases_change_nothing_and_are_all_there(model: str, kd: str | None, folder: str) -> None:
    own = case(
        folder,
        model="BPR" if kd is None else model,
        kd=kd,
        options=OPTIONS if kd not in (None, "alone") else {"train_batch_size": 64},
    )
    backward = torch.Tensor.backward
    watched, loaders = build(own)
    seconds = phase_seconds(watched, loaders, [0, 1])
    free, other = build(own)  # seeds anew what the loaders draw from
    for epoch in (0, 1):
        free._train_epoch(other.train, epoch)
    assert torch.Tensor.backward is backward and "zero_grad" not in vars(watched.optimizer)
    for a, b in zip(watched.model.parameters(), free.model.parameters(), strict=True):
        assert torch.equal(a, b)
    base = {"data_loading", "base_loss", "base_backward", "optimiser", "other", "evaluation"}
    added = {"teacher_scores", "kd_forward", "kd_backward", "sampling"} if kd in ("RCEKD", "CE") else set()
    added |= {"topk_refresh"} if kd == "RCEKD" else set()
    assert set(seconds) == base | added and list(seconds) == [name for name in PHASES if name in seconds]
    assert all(value > 0 for value in seconds.values())


def test_a_backward_pass_is_divided_where_the_base_loss_begins(folder: str) -> None:
    """A base loss whose backward is slow, and then a KD loss whose backward is: each shows in its own phase."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            sleep(0.02)
            return grad

    for slow in ("base", "kd"):
        trainer, loaders = build(case(folder))
        owner, name = (trainer.model, "calculate_loss") if slow == "base" else (trainer.distiller, "forward")
        plain = getattr(owner, name)
        setattr(owner, name, lambda *given, plain=plain: Slow.apply(plain(*given)))
        with timed(trainer) as clock:
            trainer._train_epoch(loaders.train, 0)
        batches = 5
        phases = {"base": clock.seconds["base_backward"], "kd": clock.seconds["kd_backward"]}
        assert phases.pop(slow) >= 0.02 * batches and next(iter(phases.values())) < 0.02 * batches


# -- floors
# ---------------------------------------------------------------------------------------------------------------


def test_the_work_of_a_case_is_what_it_does(folder: str) -> None:
    trainer, loaders = build(case(folder))
    trainer._train_epoch(loaders.train, 0)
    work = work_of(case(folder), trainer, loaders)
    assert (work.users, work.items, work.rows, work.batches, work.width) == (30, 40, 300, 5, 8)
    assert work.depth == 10 and work.listed == 15 and work.teacher_width == 16 and work.parameters == 8 * 72
    assert 30 <= work.queries <= 5 * 30 and 0 < work.evaluated <= 30


def test_floors_follow_their_formulas() -> None:
    work = Work(100, 200, 20, 0, 1000, 4, 6000, 300, 150, 50, 400, 1.0, 90)
    assert set(FLOORS) == set(PHASES) - {"other"}
    found = floors(work, Machine(bandwidth=1e9, rate=1e12))
    assert found["optimiser"] == {"seconds": pytest.approx(28 * 6000 * 4 / 1e9), "bound_by": "bytes"}
    slow = floors(work, Machine(bandwidth=1e15, rate=1e6))
    assert slow["topk_refresh"] == {"seconds": pytest.approx(2 * 20 * 100 * 200 / 1e6), "bound_by": "operations"}
    assert floors(replace(work, seen=0.25), Machine(1e15, 1e6))["topk_refresh"]["seconds"] == pytest.approx(0.2)
    graph = floors(replace(work, layers=2), Machine(1e9, 1e12))
    assert graph["base_loss"]["seconds"] > found["base_loss"]["seconds"]


def test_the_machine_is_measured() -> None:
    rates = measure(torch.device("cpu"))
    assert 1e8 < rates.bandwidth < 1e13 and 1e8 < rates.rate < 1e16


# -- growth
# ---------------------------------------------------------------------------------------------------------------


def test_growth_is_fitted_as_a_power_law_of_each_size_alone() -> None:
    asked: list[dict[str, int]] = []

    def measure(sizes: dict[str, int]) -> dict[str, Any]:
        asked.append(dict(sizes))
        topk = 1e-9 * sizes["users"] * sizes["items"]
        phases = {"topk_refresh": topk, "sampling": 1e-4 * sizes["users"], "teacher_scores": 1e-4 * sizes["users"]}
        phases |= {"kd_forward": 1e-3 * sizes["d"] ** 0.5, "evaluation": 99.0}
        return {
            "seconds_per_epoch": sum(phases.values()) - 99.0,
            "phases": phases,
            "peak_rss_mb": 500 + sizes["users"] / 2**10,
        }

    found = measure_all(measure)
    assert len(found) == sum(map(len, AXES.values())) and len(asked) == len({tuple(sizes.values()) for sizes in asked})
    assert all(sum(sizes[name] != BASE[name] for name in BASE) <= 1 for sizes in asked), "one size at a time"
    of = {axis: [row for row in found if row[0] == axis] for axis in AXES}
    for axis, name, power in (
        ("users", "top-k, s", 1.0),
        ("items", "top-k, s", 1.0),
        ("d", "steps, s", 0.5),
        ("K", "epoch, s", 0.0),
    ):
        assert exponent([row[1] for row in of[axis]], [row[2][name] for row in of[axis]]) == pytest.approx(
            power, abs=1e-9
        )
    assert slope([row[1] for row in of["users"]], [row[2]["peak, MiB"] for row in of["users"]]) == pytest.approx(
        1 / 2**10
    )
    text = markdown(found)
    measured, fits = text.split("\n\n")
    assert len(measured.splitlines()) == 2 + len(found) and len(fits.splitlines()) == 2 + len(AXES)
    assert next(line for line in fits.splitlines() if line.startswith("| users")).endswith("| 1,024 |")


def test_the_largest_problem_is_the_last_that_fits() -> None:
    n = largest(24e9)
    assert sum(bytes_needed(n, n).values()) <= 24e9 < sum(bytes_needed(n + 1, n + 1).values())
    assert n > largest(24e9, k=100) > largest(12e9, k=100)
    assert f"{n:,}" in arithmetic(24)


# -- the command
# ----------------------------------------------------------------------------------------------------------


def command(folder: Path, *words: str) -> list[dict[str, Any]]:
    """Run the script and return the rows it wrote."""
    output = folder / "bench.json"
    script = [
        sys.executable,
        str(SCRIPTS / "benchmark.py"),
        f"--size={SIZE}",
        f"--output={output}",
        "--teacher_width=8",
        *words,
    ]
    done = subprocess.run(
        [*script, *(f"--{key}={value}" for key, value in OPTIONS.items())], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "KD / floor" in done.stdout and "seconds_per_epoch" in done.stdout
    rows: list[dict[str, Any]] = json.loads(output.read_text())
    return rows


KEYS = {
    "model",
    "kd",
    "size",
    "seconds_per_epoch",
    "plain_seconds_per_epoch",
    "ratio_to_plain",
    "phases",
    "peak_rss_mb",
}


CHECK = ["--device=cpu", f"--size={SIZE}", "--teacher_width=8", "--width=4", "--repeats=1"]
SMALL = [f"--{key}={value}" for key, value in OPTIONS.items()]


def checked(tmp_path: Path, *words: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the checklist script and return its exit code and the rows it wrote."""
    output = tmp_path / f"gpu-{len(list(tmp_path.iterdir()))}.json"
    code = script("benchmarks/gpu").main([*CHECK, *SMALL, f"--output={output}", *words])
    found = json.loads(output.read_text())
    assert found["device"] == "cpu" and found["torch"] == torch.__version__ and found["size"] == SIZE
    return code, found["rows"]


def test_the_checklist_of_a_device_measures_methods_and_goes_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(RD, "forward", fails)
    code, rows = checked(tmp_path, "--kd=RD,CE")
    assert code == 1 and [(row["kd"], row["state"]) for row in rows] == [("RD", "failed"), ("CE", "measured")]
    assert "no such kernel" in rows[0]["why"] and rows[1]["peak_mb"] > 100
    assert rows[1]["ratio_to_plain"] == pytest.approx(rows[1]["seconds_per_epoch"] / rows[1]["plain_seconds_per_epoch"])
    said = capsys.readouterr().out
    assert f"torch: {torch.__version__}" in said and "ratio_to_plain" in said
    code, rows = checked(tmp_path, "--kd=CE", "--minutes=1e-9")
    assert code == 0 and rows == [{"kd": "CE", "state": "out of time", "why": ANY, "peak_mb": ANY}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("benchmarks/gpu").main([f"--output={tmp_path / 'gpu.json'}"]) == 2
    assert "error: --device=cuda is not possible" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_steps_of_a_wide_model_are_those_of_recbole(folder: str) -> None:
    found = time_wide(SIZE, folder, 136, 2)
    assert found["steps"] == 2 and found["steps_of_an_epoch"] == 1  # the first, which compiles, is not among them
    assert found["cpu_ratio"] > 0
    assert 0 <= found["largest_difference_of_loss"] < 1e-5


@pytest.mark.slow
def test_the_checklist_measures_every_method(tmp_path: Path) -> None:
    code, rows = checked(tmp_path)
    assert code == 0 and [row["kd"] for row in rows] == list(DISTILLERS)
    assert all(row["state"] == "measured" for row in rows), rows


@pytest.mark.slow
def test_the_command_times_models_by_methods(tmp_path: Path) -> None:
    rows = command(tmp_path, "--model=MF,LightGCN", "--kd=RCEKD,RD", "--repeats=2", "--evaluation")
    assert [(row["model"], row["kd"]) for row in rows] == [
        (m, kd) for m in ("MF", "LightGCN") for kd in ("RCEKD", "RD")
    ]
    for row in rows:
        assert set(row) >= KEYS and row["ratio_to_plain"] == pytest.approx(
            row["seconds_per_epoch"] / row["plain_seconds_per_epoch"]
        )
        assert (
            set(row["floors"]) >= set(row["phases"]) - {"other"}
            and row["peak_rss_mb"] > 100
            and row["evaluation_seconds"] > 0
        )


@pytest.mark.slow
def test_the_command_says_how_cost_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(growth, "BASE", {"users": 60, "items": 300, "interactions": 600, "K": 5, "L": 5, "d": 4})
    monkeypatch.setattr(growth.measure_all, "__defaults__", ({"users": (60, 120)}, growth.BASE))
    assert run_verb("benchmark", ["--growth", "--repeats=1", f"--output={tmp_path / 'growth.json'}"]) == 0
    said = capsys.readouterr().out
    assert "| users | 60 |" in said and "| users | 120 |" in said and "together" in said
    assert len(json.loads((tmp_path / "growth.json").read_text())["rows"]) == 2


@pytest.mark.slow
def test_the_command_measures_one_epoch_with_an_index(tmp_path: Path) -> None:
    (row,) = command(tmp_path, "--repeats=0", "--kd_candidate_index=ivf", "--kd_nlist=4", "--kd_nprobe=2")
    assert set(row) >= KEYS and row["candidate_index"]["refreshes"] == 1 and 0 < row["candidate_index"]["recall"] <= 1
    epoch = sum(seconds for name, seconds in row["phases"].items() if name != "evaluation")
    assert row["seconds_per_epoch"] == pytest.approx(epoch) and row["work"]["seen"] == pytest.approx(0.6)


@pytest.mark.slow
def test_what_distillation_adds_to_memory_stays_within_the_arithmetic(tmp_path: Path) -> None:
    """100,000 users and items with an index: what is U x I would take 40 GB."""
    size, options = "100000x100000x100000", {"kd_candidate_index": "ivf", "kd_index_teacher": True, "kd_nprobe": 16}
    write_teacher(write_dataset(size, tmp_path), 32)
    made = {"model": "MF", "kd": "RCEKD", "size": size, "folder": str(tmp_path), "width": 20, "options": options}
    row = measured(made, 0, {"bandwidth": 1e10, "rate": 1e11}, False)
    added = row["peak_rss_mb"] - row["plain_peak_rss_mb"]
    assert 200 < added < sum(bytes_needed(10**5, 10**5, teacher=32).values()) / 2**20 + 200, "200 MiB for libraries"
    assert row["candidate_index"]["recall"] > 0.2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--wide --kd=RRD", "--kd has no effect with --wide"),
        ("--sequences --kd_k=5", "--kd_k has no effect with --sequences"),
        ("--models --size=small", "--size has no effect with --models"),
        ("--prefixes --output=x.json", "--output has no effect with --prefixes"),
        ("--growth --evaluation", "--evaluation has no effect with --growth"),
        ("--minutes=3", "--minutes has no effect without --models or --memory or --peers or --device"),
        ("--only=MF", "--only has no effect without --models"),
        ("--device=cpu --model=LightGCN", "--model=LightGCN is not possible with --device: expected MF"),
        ("--device=cpu --minutes=0", "--minutes=0 is not allowed"),
        ("--models --minutes=nan", "--minutes=nan is not allowed"),
    ],
)
def test_an_option_that_a_measurement_does_not_read_is_refused(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(given.split())


@pytest.mark.parametrize(
    "word", ["--size=small --kd_k=5", "--growth --kd_k=5 --repeats=1", "--wide --width=8 --size=small"]
)
def test_an_option_that_a_measurement_reads_is_taken(word: str) -> None:
    assert parse(word.split())[0].repeats >= 0
