"""Trials of kd_weight=auto: their epochs, their grid and their ranking."""

from __future__ import annotations

import math

import pytest

from recbole_kd.training.weight_trials import FACTORS, grid_of, ladder, ranked, shortest


@pytest.mark.parametrize("unit", [1, 2, 3, 10])
def test_all_other_trials_take_at_most_half_of_the_epochs(unit: int) -> None:
    for length in range(1, 130):
        found = ladder(length, unit)
        assert (found is None) == (length < 4 * unit)
        if found is None:
            continue
        assert 0 < 2 * found.epochs_of_others <= length
        ends = [rung.epochs for rung in found.rungs]
        assert ends == sorted(set(ends)) and all(end % unit == 0 for end in ends) and ends[-1] <= length
        kept = [len(found.factors), *(rung.kept for rung in found.rungs)]
        assert kept == sorted(set(kept), reverse=True) and kept[-1] == 1
        assert 1.0 in found.factors and min(found.factors) > 0


def test_the_usual_training_has_five_trials_of_two_four_and_eight_epochs() -> None:
    found = ladder(shortest(epochs=300, stopping_step=30, eval_step=1))
    assert found is not None and found.factors == FACTORS
    assert [(rung.epochs, rung.kept) for rung in found.rungs] == [(2, 3), (4, 2), (8, 1)]
    assert found.epochs_of_others == 16


def test_patience_and_epochs_bound_a_training_from_below() -> None:
    assert shortest(5, 30, 1) == 5
    assert shortest(300, 0, 3) == 6  # the second validation, after 6 epochs, can be the first that is worse


def test_a_grid_can_be_typed_again() -> None:
    grid = grid_of(math.pi, FACTORS)
    assert grid == [0.314, 1.01, 3.14, 10.1, 31.4]
    assert [float(f"{weight:g}") for weight in grid] == grid


def test_trials_are_ranked_by_score_and_ties_by_the_distance_to_the_centre() -> None:
    assert ranked({0: 0.1, 1: 0.3, 2: None, 3: 0.2}, FACTORS, bigger=True) == [1, 3, 0, 2]
    assert ranked({0: 0.1, 1: 0.3, 2: None, 3: 0.2}, FACTORS, bigger=False) == [0, 3, 1, 2]
    assert ranked(dict.fromkeys(range(5), 0.5), FACTORS, bigger=True) == [2, 1, 3, 0, 4]
