"""Paired tests of methods over the same seeds, and their correction for several comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import ttest_rel


def paired_p_value(first: Sequence[float], other: Sequence[float]) -> float | None:
    """Return p of the two-sided paired t-test of two equally long sequences.

    It is 1 for equal sequences, and None for fewer than two pairs, which have no deviation.
    """
    if len(first) < 2:
        return None
    differences = np.subtract(first, other)
    if not differences.any():
        return 1.0
    if np.ptp(differences) == 0:
        return 0.0  # t is infinite; scipy would warn of lost precision
    return float(ttest_rel(first, other).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's step-down adjustment of p-values, which controls the family-wise error (Holm, 1979).

    Args:
        p_values: one for each comparison; None where there is none, which stays None and does not count.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted
