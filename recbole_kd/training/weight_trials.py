"""Trial trainings that choose the weight lambda of a distillation: grid, epochs and ranking.

The trials are halved by their validation scores: all are trained for a few epochs, the better ones are continued, and
the last one becomes the training. It is trained for at least ``min(epochs, (stopping_step + 2) * eval_step)`` epochs,
because patience cannot end it earlier. Half of that is what the other trials may take together, so they cannot take
more than half of its epochs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FACTORS = (0.1, 0.32, 1.0, 3.2, 10.0)
"""Weights of the trials over the centre of the grid; 0 is not among them."""

FEWEST_UNITS = 2
"""Units of epochs that the dropped trials need together."""


@dataclass(frozen=True)
class Rung:
    """One step of the halving.

    Attributes:
        epochs: epochs of each of its trials at its end, counted from the start of the training.
        kept: number of trials that go on from there.
    """

    epochs: int
    kept: int


@dataclass(frozen=True)
class Ladder:
    """The weights to try, over the centre of the grid, and the rungs that drop all but one of them."""

    factors: tuple[float, ...]
    rungs: tuple[Rung, ...]

    @property
    def epochs_of_others(self) -> int:
        """Epochs of all trials but the last one together."""
        left = [len(self.factors), *(rung.kept for rung in self.rungs)]
        return sum((before - rung.kept) * rung.epochs for before, rung in zip(left, self.rungs, strict=False))


def shortest(epochs: int, stopping_step: int, eval_step: int) -> int:
    """Return the fewest epochs that a training with this patience can have.

    The first validation is the best so far, and ``stopping_step + 1`` worse ones must follow.
    """
    return min(epochs, (stopping_step + 2) * eval_step)


def ladder(shortest_training: int, unit: int = 1) -> Ladder | None:
    """Return the trials of a training, or None if it is too short for any.

    Args:
        shortest_training: the fewest epochs of the training, see :func:`shortest`.
        unit: the trials are compared after multiples of so many epochs.
    """
    units = shortest_training // 2 // unit
    if units < FEWEST_UNITS:
        return None
    if units >= 8:  # two trials are dropped at the first rung, one at the second and one at the third
        first = units // 8
        rungs = (Rung(first * unit, 3), Rung(2 * first * unit, 2), Rung((units - 4 * first) * unit, 1))
        return Ladder(FACTORS, rungs)
    factors = FACTORS if units >= 4 else FACTORS[::2]
    return Ladder(factors, (Rung(units // (len(factors) - 1) * unit, 1),))


def grid_of(centre: float, factors: Sequence[float]) -> list[float]:
    """Return the weights of the trials, with three digits, so that they can be typed again."""
    return [float(f"{centre * factor:.3g}") for factor in factors]


def ranked(scores: dict[int, float | None], factors: Sequence[float], bigger: bool) -> list[int]:
    """Return the trials from best to worst.

    Of equal scores the weight nearer to the centre comes first, then the smaller one.

    Args:
        scores: validation score of each trial, by its place in the grid; None for one that diverged.
        factors: weight of each trial over the centre of the grid.
        bigger: whether a larger score is better.
    """

    def key(trial: int) -> tuple[bool, float, float, float]:
        score = scores[trial]
        worth = 0.0 if score is None else (-score if bigger else score)
        return score is None, worth, round(abs(math.log(factors[trial])), 6), factors[trial]

    return sorted(scores, key=key)
