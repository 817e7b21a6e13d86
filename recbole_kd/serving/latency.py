"""Latency of rankers, timed call by call in turns.

So any other load of the machine slows all of them alike.
"""

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
"""Calls before the clock, and with it, of each ranker and batch size."""
DRAWN = 64
"""So many batches of users are drawn, and asked for in turn."""

Rank = Callable[[Tensor], object]
"""Known users, int64 ``[B]`` -> their top lists."""


@dataclass(frozen=True)
class Latency:
    """Times of one ranker at one batch size, in milliseconds a call.

    Attributes:
        name: of the ranker. batch: users a call. calls: timed. users_per_second: of all calls together.
    """

    name: str
    batch: int
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    users_per_second: float


def ranker(student: Student, scores: StudentScores, k: int) -> Rank:
    """Return what :meth:`recbole_kd.Student.recommend` does between ids and data frame.

    A call encodes the histories of a model that reads them, scores the catalogue, leaves out what a user had, and takes
    the k best.

    Args:
        scores: of the student, or of its teacher over the same users and items.
    """
    seen, n_items = student.known.everything, len(student.items)

    def rank(users: Tensor) -> object:
        with scores.of_users(users, as_tested=False) as full:
            return top_k_in_blocks(full, torch.arange(len(users)), n_items, min(k, n_items - 1), seen.of_rows(users))

    return rank


def timed(rankers: Mapping[str, Rank], n_users: int, batch: int, seconds: float) -> list[Latency]:
    """Return the latency of each ranker, after a warm-up.

    Args:
        n_users: of the tables; users 1 to n_users - 1 are asked about, drawn at random. seconds: of timing for each
            ranker; at least :data:`FEWEST_CALLS` calls are timed.
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
