"""Same seed, same machine, same result: also on several threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Within it torch takes its deterministic kernels on a CPU, and autograd does not look for anomalies.

    Without it the gradient of indexed rows (RecBole's LightGCN) is added up atomically, in whatever order the threads
    come. torch would also fill fresh memory with NaN; nothing here reads memory that it has not written, so that pass
    is left out. RecBole's SINE switches anomaly detection on for the whole process when it is imported; the trainer
    looks at its losses itself.

    Args:
        wanted: RecBole's ``reproducibility``, on a CPU.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = getattr(
        torch.utils, "deterministic", SimpleNamespace(fill_uninitialized_memory=None)
    )  # torch 2.2 and later
    fills = memory.fill_uninitialized_memory
    try:
        if wanted:
            torch.use_deterministic_algorithms(True, warn_only=True)
            memory.fill_uninitialized_memory = False
        with torch.autograd.set_detect_anomaly(False):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = fills
