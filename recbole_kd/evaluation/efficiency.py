"""Efficiency of a model: inference time per user, and peak memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from statistics import median
from time import perf_counter

import psutil
import torch

from recbole_kd.scoring.scorer import Scorer

TIMED_USERS = 512

TIMED_K = 20

WARM_UP, TIMED_CALLS = 3, 11

FEWEST_CALLS, ENOUGH_SECONDS = 3, 0.3
"""A slow model is called fewer times: once as warm-up, and at least three times."""


def inference_us_per_user(scorer: Scorer) -> float:
    """Return the microseconds to rank the catalogue for one user (top 20, in a batch of 512).

    This is the median of several calls after a warm-up of caches and threads. Calls end at a third of a second, so that
    the figure of a slow model costs no more than a few of its calls.
    """
    queries = torch.arange(1, min(scorer.n_queries, TIMED_USERS + 1), device=scorer.device)
    k = min(TIMED_K, scorer.n_items - 1)
    for _ in _bounded(1, WARM_UP):
        scorer.top_k(queries, k)
    times = []
    for _ in _bounded(FEWEST_CALLS, TIMED_CALLS):
        started = perf_counter()
        scorer.top_k(queries, k)[1].cpu()
        times.append(perf_counter() - started)
    return 1e6 * median(times) / len(queries)


def _bounded(fewest: int, most: int) -> Iterator[None]:
    """Yield at least ``fewest`` and at most ``most`` times, and not again once enough seconds are spent."""
    started = perf_counter()
    for number in range(most):
        if number >= fewest and perf_counter() - started > ENOUGH_SECONDS:
            return
        yield


def peak_rss_mb() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    try:
        import resource
    except ImportError:  # Windows
        return float(psutil.Process().memory_info().peak_wset / 2**20)
    return in_mb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def in_mb(max_rss: int) -> float:
    """Return the ``ru_maxrss`` of a process in MiB; macOS counts bytes, Linux KiB."""
    return max_rss / 2**20 if sys.platform == "darwin" else max_rss / 2**10
