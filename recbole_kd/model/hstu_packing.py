"""Histories of unequal length without their padding: one packed row a position, and groups of like length for the attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_kd.ops.length_groups import like_lengths

N_BUCKETS = 128
"""Time differences fall into buckets 0 to 128."""


@dataclass(frozen=True)
class Group:
    """``b`` histories whose longest has ``L`` positions; they are the packed positions ``start`` to ``stop - 1``.

    Attributes:
        index: int64 ``[b, L]``, the position, counted from ``start``, of each padded place; a place past a history's
            end repeats its last.
        places: int64 ``[stop - start]``, the flat padded place of each position. padding: bool ``[b, L]``, True past a
            history's end.
    """

    start: int
    stop: int
    index: Tensor
    places: Tensor
    padding: Tensor


@dataclass(frozen=True)
class PackedLayout:
    """Where the ``P`` positions of a batch come from, longest history first.

    Attributes:
        row, column: int64 ``[P]``, of the padded input. place: int64 ``[P]``, 0 for the first kept position of a
            history.
        last: int64 ``[B]``, the position that ends each row; -1 for an empty history. groups: they cover all positions
            in order.
    """

    row: Tensor
    column: Tensor
    place: Tensor
    last: Tensor
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, lengths: Tensor, max_length: int, n_heads: int) -> PackedLayout:
        """Of right-padded rows: int64 ``[B]`` lengths; of a history longer than ``max_length`` the latest positions are kept."""
        kept = lengths.clamp(0, max_length)
        sizes, order = torch.sort(kept, descending=True, stable=True)
        on_host = sizes.cpu().numpy()
        on_host = on_host[on_host > 0]
        sizes, order = sizes[: len(on_host)], order[: len(on_host)]
        starts = sizes.cumsum(0) - sizes
        rank = torch.repeat_interleave(
            torch.arange(len(sizes), device=sizes.device), sizes, output_size=int(on_host.sum())
        )
        row = order[rank]
        place = torch.arange(len(rank), device=sizes.device) - starts[rank]
        last = torch.full_like(lengths, -1)
        last[order] = starts + sizes - 1
        runs = like_lengths(on_host, n_heads, on_cpu=lengths.device.type == "cpu")
        groups = tuple(_group(first, stop, on_host, sizes, starts, rank, place) for first, stop in runs)
        return cls(row, place + (lengths - kept)[row], place, last, groups)


def _group(
    first: int, stop: int, on_host: np.ndarray, sizes: Tensor, starts: Tensor, rank: Tensor, place: Tensor
) -> Group:
    start = int(on_host[:first].sum())
    end = start + int(on_host[first:stop].sum())
    width = int(on_host[first])
    across = torch.arange(width, device=sizes.device)
    lengths = sizes[first:stop].unsqueeze(1)
    index = (starts[first:stop] - start).unsqueeze(1) + torch.minimum(across, lengths - 1)
    places = (rank[start:end] - first) * width + place[start:end]
    return Group(start, end, index, places, across >= lengths)


def time_buckets(layout: PackedLayout, times: Tensor, following: Tensor) -> tuple[Tensor, ...]:
    """Bucket of the time from each key to what follows each query, floor(ln(max(1, |t_{i+1} - t_j|)) / 0.301), at most 128.

    Args:
        times: int64 ``[P]``, of each position. following: int64 ``[P]``, of the item after it.

    Returns:
        For each group uint8 ``[b, L, L]``, query before key; what stands at padded places is not used.
    """
    return tuple(
        _buckets(following[group.start : group.stop][group.index], times[group.start : group.stop][group.index])
        for group in layout.groups
    )


def _buckets(after: Tensor, times: Tensor) -> Tensor:
    apart = (after.unsqueeze(2) - times.unsqueeze(1)).abs_().clamp_(min=1)
    return (torch.log(apart.float()) / 0.301).clamp_(max=N_BUCKETS).to(torch.uint8)
