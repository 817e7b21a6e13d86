"""Vectors of histories from a causal model, in one pass for all prefixes of a history."""

from __future__ import annotations

from collections.abc import Callable

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_kd.data.histories.history_rows import Rows

POSITIONS_PER_CALL = 2**15
"""History positions, padding included, that are encoded at a time."""


def encode_prefixes(positions: Callable[[Interaction], Tensor], rows: Rows, queries: Tensor) -> Tensor:
    """Return the vector at the end of each query's history.

    A history that is the beginning of another one is not encoded separately (:meth:`Rows.passes`).

    Args:
        positions: rows -> float ``[b, L, d]``, vectors of all positions of their histories.
        rows: the histories.
        queries: int64 ``[B]``.

    Returns:
        float ``[B, d]``, equal to separate encodings up to rounding.
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
    """Return slices of histories, shortest first, that fill a call.

    A history that is longer than a call has its own call.
    """
    starts = [0]
    for number, width in enumerate(widths.tolist()):
        if number > starts[-1] and (number + 1 - starts[-1]) * width > POSITIONS_PER_CALL:
            starts.append(number)
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(widths)], strict=True)]
