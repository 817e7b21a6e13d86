"""Trials of kd_weight=auto: their epochs, their grid and their ranking."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from recbole_kd.training.weight_trials import CENTRE, GRID, Halving, Length, Score, grid_of, is_worthwhile

Curve = Callable[[int, int], float]
"""The best validation score of a place in the grid after so many epochs."""


def rising(place: int, epoch: int) -> float:
    """A score that rises by every epoch, and is the better the larger the weight."""
    return epoch + place / 10


def run(
    length: Length, curve: Curve = rising, best_of: Callable[[int], int] = lambda epoch: epoch, bigger: bool = True
) -> Halving:
    """Halve until one trial is left, with the best validation at ``best_of(epochs)``."""
    halving = Halving(length, bigger)
    for _ in range(100):
        if halving.chosen is not None:
            return halving
        target = halving.target
        halving.report({place: Score(curve(place, target), best_of(target)) for place in halving.going})
    raise AssertionError("the halving does not end")


@pytest.mark.parametrize("unit", [1, 2, 3, 10])
@pytest.mark.parametrize("patience", [0, 3, 10, 30])
def test_all_other_trials_take_at_most_half_of_the_epochs(unit: int, patience: int) -> None:
    """Whichever trial is the best one, and even if patience ends it as early as it can."""
    draw = random.Random(unit)
    for epochs in (*range(1, 40), 64, 300):
        for every in {1, unit}:
            length = Length(epochs, patience, min(every, epochs), unit)
            assert Halving.is_possible(length) == (length.shortest() >= 4 * unit)
            if not Halving.is_possible(length):
                continue
            bests: dict[int, int] = {}
            curve = {place: draw.random() for place in range(len(GRID))}
            halving = Halving(length, bigger=True)
            while halving.chosen is None:
                assert halving.target % unit == 0 and halving.target <= epochs // 2
                for place in halving.going:  # the best validation is at any of those so far
                    bests[place] = max(
                        bests.get(place, min(every, epochs)), every * draw.randint(1, halving.target // every)
                    )
                halving.report({place: Score(curve[place] * bests[place], bests[place]) for place in halving.going})
            others = sum(spent for place, spent in halving.epochs.items() if place != halving.chosen)
            assert 0 < 2 * others <= length.shortest(bests[halving.chosen])


def test_the_usual_training_has_three_trials_of_which_two_go_on() -> None:
    halving = run(Length(epochs=300, stopping_step=30))
    spent = sorted(halving.epochs.items())
    assert [place for place, _ in spent] == [2, 3, 4]
    assert sorted(epochs for _, epochs in spent) == [3, 17, 17]


def test_trials_that_improve_no_more_get_fewer_epochs() -> None:
    """Patience may end them soon, so that less is known of the length of the training."""
    improving, stuck = (run(Length(300, 30), best_of=best) for best in (lambda epoch: epoch, lambda _: 1))
    assert max(stuck.epochs.values()) < max(improving.epochs.values())


def test_patience_and_epochs_bound_a_training_from_below() -> None:
    assert Length(5, 30).shortest() == 5
    assert Length(300, 0, eval_step=3).shortest() == 6  # the second validation can be the first that is worse
    assert Length(300, 30).shortest(best=100) == 131 and Length(120, 30).shortest(best=100) == 120


def test_a_grid_can_be_typed_again() -> None:
    grid = grid_of(math.pi)
    assert grid == [0.00314, 0.0314, 0.314, 3.14, 31.4, 314.0, 3140.0]
    assert [float(f"{weight:g}") for weight in grid] == grid and min(GRID) > 0 and GRID[CENTRE] == 1


def test_the_best_score_wins_in_either_direction() -> None:
    for bigger, expected in ((True, 4), (False, 2)):
        halving = Halving(Length(4, 30), bigger)
        halving.report({place: Score(place / 10, 1) for place in halving.going})
        assert halving.chosen == expected


@pytest.mark.parametrize("bigger", [True, False])
def test_near_ties_go_to_the_centre_and_then_to_the_smaller_weight(bigger: bool) -> None:
    def chosen(scores: list[float]) -> int | None:
        return run(Length(300, 30), lambda place, epoch: scores[place - CENTRE + 1], bigger=bigger).chosen

    worse = 0.4 if bigger else 0.6
    assert chosen([0.5, 0.5, 0.5]) == CENTRE
    assert chosen([0.5, 0.495 if bigger else 0.505, 0.5]) == CENTRE
    assert chosen([0.5, worse, 0.5]) == CENTRE - 1
    assert chosen([0.5, worse, 0.52 if bigger else 0.48]) == CENTRE + 1


def test_a_weight_that_learns_fast_and_ends_early_is_not_chosen() -> None:
    """The larger weight is ahead at every rung, but gains less and less."""
    slow, fast = CENTRE - 1, CENTRE

    def curve(place: int, epoch: int) -> float:
        return {slow: 0.055 * epoch, fast: 1 - 0.7**epoch}.get(place, 0.0)

    halving = run(Length(300, 30), curve)
    assert halving.chosen == slow
    assert all(curve(slow, epoch) < curve(fast, epoch) for epoch in range(1, max(halving.epochs.values()) + 1))


def test_trials_that_diverge_are_dropped() -> None:
    halving = Halving(Length(300, 30), bigger=True)
    halving.report({place: None if place > 2 else Score(0.1, 1) for place in halving.going})
    assert halving.chosen == 2
    halving = Halving(Length(300, 30), bigger=True)
    halving.report(dict.fromkeys(halving.going))
    assert not halving.going and halving.chosen is None


def test_a_teacher_must_be_one_percent_better() -> None:
    assert is_worthwhile(0.102, 0.1, bigger=True) and not is_worthwhile(0.1009, 0.1, bigger=True)
    assert is_worthwhile(0.9, 1.0, bigger=False) and not is_worthwhile(1.1, 1.0, bigger=False)
    assert not is_worthwhile(math.nan, 0.1, bigger=True)
