"""Kernels of hidden units compiled by numba: one pass where PyTorch needs several."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def keep_units(units: Any, alive: Any, drawn: Any, least: int) -> None:
    """Keep positive units that draw at least ``least``, and set the others to zero.

    Args:
        units: float32 ``[m]``, changed. A NaN stays NaN.
        alive: bool ``[m]``, written: which units stay.
        drawn: int16 ``[m]``.
        least: smallest number that keeps.
    """
    bound = np.int16(least)
    for n in range(len(units)):
        keep = (units[n] > np.float32(0)) & (drawn[n] >= bound)
        alive[n] = keep
        units[n] *= np.float32(keep)


@njit(nogil=True, cache=True)
def mask_units(units: Any, alive: Any) -> None:
    """Multiply float32 ``[m]`` by bool ``[m]``, in place."""
    for n in range(len(units)):
        units[n] *= np.float32(alive[n])
