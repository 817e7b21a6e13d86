"""Softmax kernels for catalogue rows, compiled by numba: they run without the GIL."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from recbole_kd.ops.kernels.exp import exp_below_one

SUMMED = 1024
"""This many numbers are summed in float32 before they are added to a float64 sum."""


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def row_slopes(row: Any, other: Any, top: float, top_other: float, weight: float, factor: float, likely: Any) -> Any:
    """Return the weighted cross-entropy of a row and overwrite it with the gradient.

    Arguments as in :func:`full_slopes`, of one row. ``likely`` is scratch memory.
    """
    n = len(row)
    if not (abs(top) < np.inf and abs(top_other) < np.inf):
        row[:] = np.nan
        return np.float32(np.nan)
    total, total_other, cross = np.float32(0), np.float32(0), np.float32(0)
    for j in range(n):
        below = row[j] - top
        share, share_other = exp_below_one(below), exp_below_one((other[j] - top_other) * factor)
        total += share
        total_other += share_other
        cross += share_other * below
        row[j] = share
        likely[j] = share_other
    scale, scale_other = weight * factor / total, weight * factor / total_other
    for j in range(n):
        row[j] = row[j] * scale - likely[j] * scale_other
    return weight * (np.float32(math.log(total)) - cross / total_other)


@njit(nogil=True, cache=True)
def full_slopes(
    scores: Any, teacher: Any, tops: Any, teacher_tops: Any, weights: Any, factor: float, losses: Any
) -> None:
    """Write the weighted cross-entropy of each row and its gradient in the dot products.

    Args:
        scores: float32 ``[B, n]``, the student's dot products times ``factor``; overwritten with the gradient.
        teacher: float32 ``[B, n]``, scores.
        tops, teacher_tops: float32 ``[B]``, row maxima of both; NaN if a row holds one.
        weights: float32 ``[B]``. factor: 1 / temperature. losses: float32 ``[B]``, written.
    """
    likely = np.empty(scores.shape[1], np.float32)
    for b in range(len(scores)):
        losses[b] = row_slopes(scores[b], teacher[b], tops[b], teacher_tops[b], weights[b], factor, likely)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def sums_of_exp(scores: Any, tops: Any, sums: Any) -> None:
    """Write the sum of exp(score - top) of each row.

    Args:
        scores: float32 ``[B, n]``. tops: float32 ``[B]``, finite row maxima. sums: float32 ``[B]``, written.
    """
    n = scores.shape[1]
    for b in range(len(scores)):
        row, top = scores[b], tops[b]
        total: Any = 0.0
        for first in range(0, n, SUMMED):
            part = np.float32(0)
            for j in range(first, min(first + SUMMED, n)):
                part += exp_below_one(row[j] - top)
            total += part
        sums[b] = total


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def softmax_slopes(scores: Any, tops: Any, sums: Any, targets: Any, scale: float, slopes: Any) -> None:
    """Write ``scale * (softmax(row) - one_hot(target))`` of each row.

    Args:
        sums: float32 ``[B]`` from :func:`sums_of_exp`. targets: int64 ``[B]``. slopes: float32 ``[B, n]``, written.
    """
    for b in range(len(scores)):
        row, slope, top, factor = scores[b], slopes[b], tops[b], np.float32(scale / sums[b])
        for j in range(scores.shape[1]):
            slope[j] = exp_below_one(row[j] - top) * factor
        slope[targets[b]] -= np.float32(scale)
