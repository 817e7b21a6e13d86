"""Training steps that are timed one by one, for epochs that take too long to be timed whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from statistics import mean
from time import perf_counter, process_time
from typing import Any

import torch

Seconds = tuple[float, float]
"""Elapsed seconds and those of the processor."""


def clocks() -> Seconds:
    """Return the two clocks, after all work that a GPU was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter(), process_time()


def since(started: Seconds) -> Seconds:
    """Return the seconds since :func:`clocks`."""
    now = clocks()
    return now[0] - started[0], now[1] - started[1]


def steps_of(epoch: int, trainer: Any, loaders: Any) -> Iterator[Seconds]:
    """Train step by step, an epoch again and again.

    Yield the seconds of each step; those of the first include the beginning of the epoch.
    """
    started, distils = clocks(), trainer.distiller is not None
    if distils:
        trainer.distiller.begin_epoch(epoch)
        trainer._loader.ask_teacher()
    trainer.model.train()
    for _ in count():
        for batch in trainer._loader if distils else loaders.train:
            loss = torch.stack(trainer._losses(batch)).sum() if distils else trainer.model.calculate_loss(batch)
            trainer.optimizer.zero_grad()
            loss.backward()
            trainer.optimizer.step()
            yield since(started)
            started = clocks()


def seconds_of_epoch(found: Sequence[Seconds], n_steps: int) -> Seconds:
    """Return the seconds of an epoch: its first step, and the mean of later ones times their number.

    Args:
        found: seconds of the first step, which include the epoch's beginning, and of at least one later step.
        n_steps: steps of the epoch.
    """
    first, *later = found
    elapsed, cpu = (first[clock] + (n_steps - 1) * mean(step[clock] for step in later) for clock in (0, 1))
    return elapsed, cpu
