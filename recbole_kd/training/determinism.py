"""Repeatable training: same seed, same machine, same result, also with several threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Use torch's deterministic CPU kernels and switch autograd's anomaly detection off.

    Without deterministic kernels the gradient of indexed rows (RecBole's LightGCN) is summed atomically, in an order
    that depends on the threads. In deterministic mode torch also fills fresh memory with NaN. Nothing here reads memory
    that it has not written, so that pass is switched off. RecBole's SINE switches anomaly detection on for the whole
    process when it is imported; the trainer checks its losses itself.

    Args:
        wanted: use the deterministic kernels. It is RecBole's ``reproducibility``, on a CPU.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # torch.utils.deterministic exists from torch 2.2 on.
    memory: Any = getattr(torch.utils, "deterministic", SimpleNamespace(fill_uninitialized_memory=None))
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
