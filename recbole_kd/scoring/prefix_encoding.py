"""Vectors of many histories by a causal model, one pass for all prefixes of a history."""

from __future__ import annotations

from collections.abc import Callable

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_kd.data.histories.history_rows import Rows

POSITIONS_PER_CALL = 2**15
"""So many positions of histories, padding included, are encoded at a time."""


def encode_prefixes(positions: Callable[[Interaction], Tensor], rows: Rows, queries: Tensor) -> Tensor:
    """The vector that ends each query's history; a history that begins another one is not encoded by itself (:meth:`Rows.passes`).

    Args:
        positions: rows -> float ``[b, L, d]``, vectors of all positions of their histories. queries: int64 ``[B]``.

    Returns:
        float ``[B, d]``, those of separate encodings but for rounding.
    """
    passes = rows.passes(queries)
    order = passes.place.argsort(stable=True)
    place, column = passes.place[order], passes.column[order]
    found = []
    for block in _blocks(passes.widths):
        histories = rows.interaction(passes.encoded[block], width=int(passes.widths[block.stop - 1]))
        vectors = positions(histories.to(queries.device))
        first, last = torch.searchsorted(place, torch.tensor([block.start, block.stop])).tolist()
        found.append(vectors[place[first:last] - block.start, column[first:last]])
    return torch.cat(found)[order.argsort()]


def _blocks(widths: Tensor) -> list[slice]:
    """Slices of histories, shortest first, that fill a call; one that is longer than that has a call to itself."""
    starts = [0]
    for number, width in enumerate(widths.tolist()):
        if number > starts[-1] and (number + 1 - starts[-1]) * width > POSITIONS_PER_CALL:
            starts.append(number)
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(widths)], strict=True)]
