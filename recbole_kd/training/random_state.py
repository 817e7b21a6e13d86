"""State of every random generator that a training draws from."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's generators as plain values."""
    numpy_state: Any = np.random.get_state(legacy=True)
    return {
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy_rng": [numpy_state[0], torch.from_numpy(numpy_state[1].astype(np.int64)), *map(float, numpy_state[2:])],
        "python_rng": list(random.getstate()[1]),
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Restore the generators to a state of :func:`random_state`."""
    torch.set_rng_state(state["torch_rng"].cpu())
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])
    name, keys, position, has_gauss, cached = state["numpy_rng"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), int(position), int(has_gauss), cached))
    random.setstate((3, tuple(state["python_rng"]), None))
