"""Kernels for rows of a whole catalogue, compiled by numba (extra ``fast``): plain arrays in, plain arrays out, no lock held."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

LOG2_E = np.float32(1.4426950408889634)
LN_2_HIGH, LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LOWEST = np.float32(-87)
"""exp of less is no normal float32: 0 here."""


@njit(nogil=True, cache=True, inline="always")
def exp_below_one(x: Any) -> Any:
    """exp of a float32 x <= 0 to 2e-7 relative; unlike math.exp it becomes vector instructions. A NaN gives no NaN.

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


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def full_slopes(scores: Any, teacher: Any, tops: Any, teacher_tops: Any, weights: Any, factor: float, losses: Any) -> None:
    """Weighted cross-entropy of each row, and its slopes in the dot products.

    Args:
        scores: float32 ``[B, n]``, the student's dot products times ``factor``; the slopes are written over them.
        teacher: float32 ``[B, n]``, scores. tops, teacher_tops: float32 ``[B]``, their maxima, NaN where a row holds one.
        weights: float32 ``[B]``. factor: 1 / temperature. losses: float32 ``[B]``, written.
    """
    n = scores.shape[1]
    likely = np.empty(n, np.float32)
    for b in range(len(scores)):
        row, other, top, top_other = scores[b], teacher[b], tops[b], teacher_tops[b]
        if not (abs(top) < np.inf and abs(top_other) < np.inf):
            losses[b], row[:] = np.nan, np.nan
            continue
        total, total_other, cross = np.float32(0), np.float32(0), np.float32(0)
        for j in range(n):
            below = row[j] - top
            share, share_other = exp_below_one(below), exp_below_one((other[j] - top_other) * factor)
            total += share
            total_other += share_other
            cross += share_other * below
            row[j] = share
            likely[j] = share_other
        losses[b] = weights[b] * (np.float32(math.log(total)) - cross / total_other)
        scale, scale_other = weights[b] * factor / total, weights[b] * factor / total_other
        for j in range(n):
            row[j] = row[j] * scale - likely[j] * scale_other
