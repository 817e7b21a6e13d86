"""Latency of rankers, timed in turns, so that other load on the machine affects all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.ops.topk import top_k_in_blocks
from recbole_kd.serving.student_scores import StudentScores

if TYPE_CHECKING:
    from recbole_kd.serving.student import Student

BATCHES = (1, 512)
WARM_UP, FEWEST_CALLS = 10, 30
"""Untimed calls, and minimum number of timed calls, of each ranker and batch size."""
DRAWN = 64
"""Number of batches of users that are drawn and used in turn."""

Rank = Callable[[Tensor], object]
"""A function from known users, int64 ``[B]``, to their top lists."""


@dataclass(frozen=True)
class Latency:
    """The latency of one ranker at one batch size, in milliseconds per call.

    Attributes:
        name: name of the ranker.
        batch: users per call.
        calls: number of timed calls.
        users_per_second: over all calls.
    """

    name: str
    batch: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    users_per_second: float


def ranker(student: Student, scores: StudentScores, k: int) -> Rank:
    """Return the part of :meth:`recbole_kd.Student.recommend` between ids and data frame.

    A call encodes the histories for a sequential model, scores the catalogue, leaves out the items that a user had, and
    takes the k best.

    Args:
        student: the student.
        scores: of the student, or of its teacher on the same users and items.
        k: length of the lists.
    """
    seen, n_items = student.known.everything, len(student.items)

    def rank(users: Tensor) -> object:
        with scores.of_users(users, as_tested=False) as full:
            return top_k_in_blocks(full, torch.arange(len(users)), n_items, min(k, n_items - 1), seen.of_rows(users))

    return rank


def timed(rankers: Mapping[str, Rank], n_users: int, batch: int, seconds: float) -> list[Latency]:
    """Return the latency of each ranker, after a warm-up.

    Args:
        rankers: the rankers by name.
        n_users: users of the tables with the pad. Users 1 to n_users - 1 are drawn at random.
        batch: users per call.
        seconds: timed seconds per ranker. At least :data:`FEWEST_CALLS` calls are timed.
    """
    draw = torch.Generator().manual_seed(0)
    asked = [torch.randint(1, n_users, (batch,), generator=draw) for _ in range(DRAWN)]
    for rank in rankers.values():
        for number in range(WARM_UP):
            rank(asked[number])
    times: dict[str, list[float]] = {name: [] for name in rankers}
    spent = 0.0
    while spent < seconds * len(rankers) or len(times[next(iter(rankers))]) < FEWEST_CALLS:
        for name, rank in rankers.items():
            users = asked[len(times[name]) % DRAWN]
            started = perf_counter()
            rank(users)
            times[name].append(perf_counter() - started)
            spent += times[name][-1]
    return [_latency(name, batch, found) for name, found in times.items()]


def _latency(name: str, batch: int, times: list[float]) -> Latency:
    p50, p95, p99 = (float(1e3 * value) for value in np.percentile(times, [50, 95, 99]))
    return Latency(name, batch, len(times), p50, p95, p99, batch * len(times) / sum(times))


def rows_of(found: list[Latency]) -> list[dict[str, Any]]:
    """Return latencies as plain values."""
    return [asdict(one) for one in found]
