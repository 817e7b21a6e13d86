"""Groups of sequences of similar length, padded together. No RecBole import."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

LENGTH_RATIO = 1.5
"""On a CPU the longest history of a group has less than this many times the length of its shortest.

More padding than that costs more than another group.
"""

PAIRS_PER_GROUP = 2**20
"""Most (head, query position, key position) triples held at a time; a single history may exceed it."""

ACCELERATOR_PAIRS_PER_GROUP = 2**25
"""The same bound on other devices, where it alone divides a batch: small groups only wait for their launch."""


def like_lengths(sizes: np.ndarray, n_heads: int = 1, *, on_cpu: bool = True) -> Iterator[tuple[int, int]]:
    """Yield ranges (first, stop) of histories that are padded together.

    Args:
        sizes: int64 ``[B]`` lengths of at least 1, the longest first.
    """
    ratio, pairs = (LENGTH_RATIO, PAIRS_PER_GROUP) if on_cpu else (np.inf, ACCELERATOR_PAIRS_PER_GROUP)
    first = 0
    while first < len(sizes):
        longest = int(sizes[first])
        alike = int(np.searchsorted(-sizes, -longest / ratio, side="left"))
        fit = max(1, pairs // (n_heads * longest * longest))
        stop = min(alike, first + fit)
        yield first, stop
        first = stop
