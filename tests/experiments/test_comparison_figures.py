"""Figures of a comparison against scipy and by hand, on made results; its table, notes and csv."""

from __future__ import annotations

import csv
import io
import math
import random
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from recbole_kd.experiments.comparison import Comparison, Method
from recbole_kd.experiments.comparison_figures import COLUMNS, Figures, as_csv, figures_of
from recbole_kd.experiments.comparison_table import comparison_text
from recbole_kd.experiments.grid import Grid, Task
from recbole_kd.experiments.significance import holm, paired_p_value
from recbole_kd.experiments.tables import ALONE

SEEDS = (0, 1, 2, 3)


def side(value: float, **more: Any) -> dict[str, Any]:
    metrics = {"ndcg@10": value, "recall@5": 2 * value}
    return {
        "valid": metrics,
        "test": metrics,
        "epochs": 3,
        "seconds_per_epoch": 0.5,
        "stopped_by": "stopping_step",
        **more,
    }


def made_results(
    methods: dict[str, list[float]], alone: list[float], teacher: float = 0.3
) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {
        (ALONE, seed): {"student": side(value), "versions": {"commit": "abc"}} for seed, value in enumerate(alone)
    }
    for name, values in methods.items():
        for seed, value in enumerate(values):
            sides = {"teacher": side(teacher), "student": None, "distilled": side(value)}
            found[name, seed] = {**sides, "versions": {"commit": "abc"}}
    return found


def comparison_of(*names: str, seeds: tuple[int, ...] = SEEDS, files: dict[str, str] | None = None) -> Comparison:
    config = {"valid_metric": "NDCG@10", "embedding_size": 20, "valid_metric_bigger": True}
    request = SimpleNamespace(model="MF", dataset="made")
    about: Any = SimpleNamespace(
        request=request, alone=config, teachers=[{"embedding_size": 256}], teacher_name="LightGCN"
    )
    methods = [Method(name, {"kd": name}, seeds) for name in names]
    return Comparison({}, methods, {}, about, files or dict.fromkeys(names, ""))


def grid_of(results: dict[Any, Any], *more: tuple[str, int]) -> Grid:
    return Grid("results", "made", [Task("results", run, seed, {}) for run, seed in (*results, *more)])


# -- figures ----------------------------------------------------------------------------------------------------------


def test_mean_deviation_gain_share_and_p_are_those_of_scipy() -> None:
    draw = random.Random(3)
    methods = {name: [draw.uniform(0.1, 0.3) for _ in SEEDS] for name in ("A", "B", "C", "D")}
    alone = [draw.uniform(0.1, 0.2) for _ in SEEDS]
    rows = {f.row: f for f in figures_of(list(methods), "ndcg@10", made_results(methods, alone))}
    assert list(rows) == ["teacher", ALONE, "A", "B", "C", "D"]
    expected = [float(stats.ttest_rel(methods["A"], methods[name]).pvalue) for name in "BCD"]
    for name, values in methods.items():
        f = rows[name]
        assert (f.n, f.mean, f.sd) == (4, pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
        assert f.gain == pytest.approx(np.mean(values) / np.mean(alone) - 1)
        assert f.share == pytest.approx(np.mean(values) / 0.3)
    assert [rows[name].p for name in "BCD"] == pytest.approx(expected)
    assert [rows[name].p_holm for name in "BCD"] == pytest.approx(by_definition(expected))
    assert (rows["A"].p, rows["A"].p_holm, rows[ALONE].p) == (None, None, None)
    assert (rows["teacher"].n, rows["teacher"].sd, rows["teacher"].share) == (1, None, None)
    assert rows[ALONE].share == pytest.approx(np.mean(alone) / 0.3)


def by_definition(p_values: list[float]) -> list[float]:
    """Holm by the closure principle: the largest Bonferroni p of all families that hold the hypothesis."""
    places = range(len(p_values))
    families = [family for size in range(1, len(p_values) + 1) for family in combinations(places, size)]
    bonferroni = {family: min(1.0, len(family) * min(p_values[i] for i in family)) for family in families}
    return [max(p for family, p in bonferroni.items() if place in family) for place in places]


def test_holm_is_the_closed_bonferroni_test() -> None:
    draw = random.Random(1)
    for size in range(1, 7):
        for _ in range(20):
            p_values = [draw.random() ** 3 for _ in range(size)]
            assert holm(p_values) == pytest.approx(by_definition(p_values))
    assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert holm([]) == [] and holm([None]) == [None]


def test_p_of_equal_constant_and_single_pairs() -> None:
    assert paired_p_value([0.2, 0.3], [0.2, 0.3]) == 1.0
    assert paired_p_value([0.5, 0.25], [0.25, 0.0]) == 0.0
    assert paired_p_value([0.2], [0.1]) is None and paired_p_value([], []) is None
    # differences 2 1 3: t = 2 / (1 / sqrt 3), two degrees of freedom
    assert paired_p_value([3.0, 2.0, 4.0], [1.0, 1.0, 1.0]) == pytest.approx(2 * stats.t.sf(2 * math.sqrt(3), 2))
    assert math.isnan(paired_p_value([math.nan, 0.1], [0.2, 0.3]) or 0.0)


def test_only_the_seeds_that_both_have_are_compared() -> None:
    results = made_results({"A": [0.2, 0.3, 0.4], "B": [0.1, 0.1]}, [0.1, 0.2, 0.3])
    rows = {f.row: f for f in figures_of(["A", "B"], "ndcg@10", results)}
    assert rows["B"].p == pytest.approx(stats.ttest_rel([0.2, 0.3], [0.1, 0.1]).pvalue)
    assert rows["B"].gain == pytest.approx(0.1 / 0.15 - 1) and rows["B"].n == 2


def test_a_teacher_without_figures_gives_no_share_and_another_teacher_its_own_row() -> None:
    results = made_results({"A": [0.2], "B": [0.2]}, [0.1])
    results["A", 0]["teacher"].update(valid=None, test=None)
    rows = {f.row: f for f in figures_of(["A", "B"], "ndcg@10", results)}
    assert rows["A"].share is None and rows["B"].share == pytest.approx(0.2 / 0.3)
    results["A", 0]["teacher"] = side(0.4)
    rows = {f.row: f for f in figures_of(["A", "B"], "ndcg@10", results)}
    assert rows["teacher"].mean == 0.4 and rows["teacher of B"].mean == 0.3


# -- table and csv ----------------------------------------------------------------------------------------------------


def test_the_table_shows_what_the_figures_are_and_says_how_they_were_tested() -> None:
    results = made_results({"RCEKD": [0.20, 0.21, 0.22, 0.23], "RRD": [0.18, 0.20, 0.19, 0.21]}, [0.1, 0.1, 0.1, 0.1])
    text = comparison_text(comparison_of("RCEKD", "RRD"), grid_of(results), results)
    lines = text.splitlines()
    assert lines[0].startswith("made, MF (20) under LightGCN (256), 4 seeds, test NDCG@10")
    (rcekd, *_), (rrd, *_) = ([line for line in lines if line.startswith(name)] for name in ("RCEKD", "RRD"))
    assert rcekd.split() == ["RCEKD", ".2150", "±", ".0129", "4", "+115.0", "%", "72", "%", "-", "0.50"]
    p = stats.ttest_rel([0.20, 0.21, 0.22, 0.23], [0.18, 0.20, 0.19, 0.21]).pvalue
    assert rrd.split()[-2] == f"{p:.2g}".replace("0.", ".")
    assert "other test metrics" in text and "Recall@5" in text
    notes = " ".join(text.split())
    assert "two-sided paired t-tests on test NDCG@10 against RCEKD" in notes and "Holm-corrected for 1 test." in notes
    assert "warning" not in text


def test_one_seed_has_no_test_and_says_why() -> None:
    results = made_results({"A": [0.2], "B": [0.1]}, [0.1])
    text = comparison_text(comparison_of("A", "B", seeds=(0,)), grid_of(results), results)
    assert "One seed (0) has no deviation and no test" in text and "±" not in text and "t-tests" not in text


def test_unequal_settings_caps_and_missing_runs_are_warnings() -> None:
    results = made_results({"A": [0.2, 0.3], "B": [0.1, 0.25]}, [0.1, 0.2])
    results["B", 1]["distilled"]["stopped_by"] = "max_minutes"
    results["A", 1]["versions"] = {"commit": "def"}
    files = {"A": "distiller/A-made-MF-LightGCN", "B": ""}
    comparison = comparison_of("A", "B", seeds=(0, 1), files=files)
    text = " ".join(comparison_text(comparison, grid_of(results, ("B", 2)), results).split())
    assert (
        "warning: A has settings tuned for this pair" in text and "properties/distiller/A-made-MF-LightGCN.yaml" in text
    )
    assert "warning: ended by max_minutes" in text and "at least one seed: B;" in text
    assert "warning: not done: B (seed 2); the same command continues." in text
    assert "several versions of the code: abc, def" in text
    assert "has settings tuned" not in comparison_text(comparison.searched(), grid_of(results), results)


@pytest.mark.parametrize(
    ("tuned", "plain", "said"),
    [
        ("A", "B", ("A has settings tuned", "B has its defaults:")),
        ("AB", "C", ("A, B have settings tuned", "C has its defaults:")),
        ("A", "BCD", ("A has settings tuned", "B, C, D have their defaults:")),
    ],
)
def test_the_warning_agrees_with_the_number_of_methods(tuned: str, plain: str, said: tuple[str, str]) -> None:
    results = made_results({name: [0.2, 0.3] for name in tuned + plain}, [0.1, 0.2])
    files = {**{name: f"distiller/{name}-made" for name in tuned}, **dict.fromkeys(plain, "")}
    comparison = comparison_of(*(tuned + plain), seeds=(0, 1), files=files)
    text = " ".join(comparison_text(comparison, grid_of(results), results).split())
    assert all(part in text for part in said)


def test_the_csv_has_every_number_of_every_row_and_metric() -> None:
    results = made_results({"A, b": [0.2, 0.3], "B": [0.1, 0.25]}, [0.1, 0.2])
    found = [f for metric in ("ndcg@10", "recall@5") for f in figures_of(["A, b", "B"], metric, results)]
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 8
    for row, f in zip(rows, found, strict=True):
        assert (row["row"], row["metric"], int(row["n"]), float(row["mean"])) == (f.row, f.metric, f.n, f.mean)
        for name, value in (("sd", f.sd), ("gain_over_alone", f.gain), ("p_holm", f.p_holm)):
            assert row[name] == ("" if value is None else repr(value))


def test_a_smaller_p_than_a_thousandth_is_shown_as_below_it() -> None:
    from recbole_kd.experiments.comparison_table import _p

    assert [_p(p) for p in (None, 0.0, 0.0009, 0.001, 0.0412, 1.0)] == ["-", "<.001", "<.001", ".001", ".041", "1"]
    assert Figures("a", "distilled", "m", 1, 0.1, None, None, None).p is None
