"""Trial trainings that choose the weight lambda of a distillation: grid, epochs and ranking.

Three weights are trained for a few epochs, the better two are continued for up to three times as many, as long as the
budget lasts, and then the better one becomes the training. A training lasts for at least ``stopping_step + 1``
validations beyond its best one so far (or all ``epochs``), because patience cannot end it earlier. Half of that is what
the other trials may take together, so they cannot take more than half of the epochs of the training.

Three trials choose better than five, because each of them lasts longer: tests/training/test_weight_replay.py repeats
the choice on stored curves of whole grids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Weights of the grid over its centre; 0 is not among them."""

CENTRE = GRID.index(1.0)

TRIED = (CENTRE - 1, CENTRE, CENTRE + 1)
"""Places in the grid of the weights that are tried."""

NEAR = 0.02
"""Share of the best forecast within which the weight nearer to the centre is preferred."""

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
        self.going = list(TRIED)
        self.target = max(1, units // 5) * self.length.unit

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
        if len(order) > 1:
            self.going = sorted(order[:2])
            self.target = self._affordable(done)
            if self.target > done:
                return
        self.going = order[:1]

    def _affordable(self, done: int) -> int:
        """Return the end of the next rung with the two trials that go on, ``done`` if there is none.

        It is three times the last one, or earlier if that is all that the other trials may take.
        """
        bests = [score.best for place in self.going if (score := self.scores[place][-1]) is not None]
        dropped = sum(epochs for place, epochs in self.epochs.items() if place not in self.going)
        budget = min(map(self.length.shortest, bests)) // 2 - dropped
        end = min(3 * done, budget // self.length.unit * self.length.unit)
        return end if 4 * (end - done) >= done else done

    def _ranked(self) -> list[int]:
        """Return the trials that go on from best to worst.

        Of forecasts within :data:`NEAR` of the best one, the weight nearest to the centre comes first, then the
        smaller one.
        """
        sign = 1 if self.bigger else -1
        worth = {place: sign * found for place in self.going if (found := self._forecast(place)) is not None}
        best = max(worth.values(), default=0.0)
        bar = best - NEAR * abs(best)

        def key(place: int) -> tuple[bool, bool, float, int, int]:
            value = worth.get(place)
            if value is None or value >= bar:
                return value is None, False, 0.0, abs(place - CENTRE), place
            return False, True, -value, abs(place - CENTRE), place

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
