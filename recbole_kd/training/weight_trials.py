"""Trial trainings that choose the weight lambda of a distillation: grid, epochs and ranking.

The trials are halved by their validation scores. All are trained for a few epochs, the better ones are continued for
twice as many, and the last one becomes the training. A training lasts for at least ``stopping_step + 1`` validations
beyond its best one so far (or all ``epochs``), because patience cannot end it earlier. Half of that is what the other
trials may take together, so they cannot take more than half of the epochs of the training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Weights of the grid over its centre; 0 is not among them."""

CENTRE = GRID.index(1.0)

FEWEST_UNITS = 2
"""Units of epochs that the dropped trials need together."""

WORTHWHILE = 0.01
"""Share by which a teacher must be better than the student alone on validation for large weights to be tried."""


@dataclass(frozen=True)
class Length:
    """The keys that decide how long a training can be.

    Attributes:
        epochs: the most epochs.
        stopping_step: validations without improvement after which it goes on for one more, then ends.
        eval_step: epochs between two validations.
        unit: trials are compared after multiples of so many epochs.
    """

    epochs: int
    stopping_step: int
    eval_step: int = 1
    unit: int = 1

    def shortest(self, best: int = 0) -> int:
        """Return the fewest epochs that a training can have.

        Args:
            best: epochs at its best validation so far; 0 before the first, which is the best one then.
        """
        return min(self.epochs, max(best, self.eval_step) + (self.stopping_step + 1) * self.eval_step)


@dataclass(frozen=True)
class Score:
    """The best validation score of a trial, and its epochs at that validation."""

    value: float
    best: int


@dataclass
class Halving:
    """The state of the trials of a grid.

    Attributes:
        length: of the training.
        bigger: whether a larger score is better.
        going: places in the grid of the trials that go on.
        scores: place -> score at the end of each of its rungs, None if it diverged.
        epochs: place -> epochs of a trial.
        target: epochs of each trial at the end of the next rung.
    """

    length: Length
    bigger: bool
    going: list[int] = field(default_factory=list)
    scores: dict[int, list[Score | None]] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)
    target: int = 0

    def __post_init__(self) -> None:
        units = self.length.shortest() // 2 // self.length.unit
        steps = (-2, -1, 0, 1, 2) if units >= 4 else (-1, 0, 1)
        self.going = [CENTRE + step for step in steps]
        self.target = max(1, units // 8) * self.length.unit

    @classmethod
    def is_possible(cls, length: Length) -> bool:
        """Test whether a training is long enough for three trials."""
        return length.shortest() // 2 // length.unit >= FEWEST_UNITS

    @property
    def chosen(self) -> int | None:
        """Place of the trial that becomes the training; None while several go on, and if all diverged."""
        return self.going[0] if len(self.going) == 1 else None

    def report(self, found: Mapping[int, Score | None]) -> None:
        """Take the scores of the trials at the end of a rung, and decide which go on.

        Args:
            found: score of each trial that goes on, None if it diverged.
        """
        for place, score in found.items():
            self.scores.setdefault(place, []).append(score)
            self.epochs[place] = self.target
        done = self.target
        order = [place for place in self._ranked() if found[place] is not None]
        for n_kept in [] if len(order) < 2 else [3, 2] if len(order) > 3 else [2]:
            self.going = sorted(order[:n_kept])
            self.target = self._affordable(done)
            if self.target > done:
                return
        self.going = order[:1]

    def _affordable(self, done: int) -> int:
        """Return the end of the next rung with the trials that go on, ``done`` if there is none.

        It is twice as long as the last one, or shorter if that is all that the other trials may take.
        """
        bests = [score.best for place in self.going if (score := self.scores[place][-1]) is not None]
        dropped = sum(epochs for place, epochs in self.epochs.items() if place not in self.going)
        budget = min(map(self.length.shortest, bests)) // 2 - dropped
        unit = self.length.unit
        end = min(2 * done, budget // (len(self.going) - 1) // unit * unit)
        return end if 4 * (end - done) >= done else done

    def _ranked(self) -> list[int]:
        """Return the trials that go on from best to worst.

        Of equal forecasts the weight nearer to the centre comes first, then the smaller one.
        """

        def key(place: int) -> tuple[bool, float, int, int]:
            forecast = self._forecast(place)
            worth = 0.0 if forecast is None else (-forecast if self.bigger else forecast)
            return forecast is None, worth, abs(place - CENTRE), place

        return sorted(self.going, key=key)

    def _forecast(self, place: int) -> float | None:
        """Return the score to be expected after another rung like the last one, None if the trial diverged.

        The gain of the last rung goes on, because a large weight often learns fast and ends early.
        """
        *earlier, last = self.scores[place]
        if last is None:
            return None
        if not earlier or earlier[-1] is None:
            return last.value
        return last.value + (last.value - earlier[-1].value)


def grid_of(centre: float, factors: Sequence[float] = GRID) -> list[float]:
    """Return the weights of a grid, with three digits, so that they can be typed again."""
    return [float(f"{centre * factor:.3g}") for factor in factors]


def is_worthwhile(teacher: float, alone: float, bigger: bool) -> bool:
    """Test whether a teacher is better than the student alone by more than :data:`WORTHWHILE`.

    Args:
        teacher, alone: scores on validation.
        bigger: whether a larger score is better.
    """
    gain = teacher - alone if bigger else alone - teacher
    return math.isfinite(gain) and gain > WORTHWHILE * abs(alone)
