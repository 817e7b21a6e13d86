"""An exponential for compiled loops (extra ``fast``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

LOG2_E = np.float32(1.4426950408889634)
LN_2_HIGH, LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LOWEST = np.float32(-87)
"""Below this exp is not a normal float32; the result is 0."""


@njit(nogil=True, cache=True, inline="always")
def exp_below_one(x: Any) -> Any:
    """Return exp of a float32 x <= 0, to a relative error of 2e-7.

    Unlike math.exp it compiles to vector instructions. The result for NaN is not NaN.

    exp x = 2^n exp r with r in [-ln 2 / 2, ln 2 / 2]; exp r by the minimax polynomial of the Cephes library's expf.
    """
    inside = max(x, LOWEST)
    n = np.floor(inside * LOG2_E + np.float32(0.5))
    r = inside - n * LN_2_HIGH - n * LN_2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1)
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return p * power if x > LOWEST else np.float32(0)
