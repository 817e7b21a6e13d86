"""Groups of sequences of similar length, which are padded together. No RecBole import."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

LENGTH_RATIO = 1.5
"""On a CPU the longest history of a group is less than so many times as long as its shortest: padding costs more than another group."""

PAIRS_PER_GROUP = 2**20
"""At most so many (head, query position, key position) triples are held at a time; a single history may exceed it."""

ACCELERATOR_PAIRS_PER_GROUP = 2**25
"""The same on other devices, where small groups only wait for their launch: nothing else divides a batch."""


def like_lengths(sizes: np.ndarray, n_heads: int = 1, *, on_cpu: bool = True) -> Iterator[tuple[int, int]]:
    """Runs (first, stop) of histories that are padded together: int64 ``[B]`` lengths of at least 1, the longest first."""
    ratio, pairs = (LENGTH_RATIO, PAIRS_PER_GROUP) if on_cpu else (np.inf, ACCELERATOR_PAIRS_PER_GROUP)
    first = 0
    while first < len(sizes):
        longest = int(sizes[first])
        alike = int(np.searchsorted(-sizes, -longest / ratio, side="left"))
        fit = max(1, pairs // (n_heads * longest * longest))
        stop = min(alike, first + fit)
        yield first, stop
        first = stop
