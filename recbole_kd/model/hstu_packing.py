"""Packing of histories of unequal length: one row per position, groups of similar length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_kd.ops.length_groups import like_lengths

N_BUCKETS = 128
"""The last bucket of time differences, which fall into buckets 0 to 128."""


@dataclass(frozen=True)
class Group:
    """A group of ``b`` histories: the packed positions ``start`` to ``stop - 1``.

    The longest history has ``L`` positions.

    Attributes:
        index: int64 ``[b, L]``, the packed position, counted from ``start``, of each padded cell. A cell after the end
            of a history repeats its last position.
        places: int64 ``[stop - start]``, the flat index of each position's padded cell.
        padding: bool ``[b, L]``, True after the end of a history.
    """

    start: int
    stop: int
    index: Tensor
    places: Tensor
    padding: Tensor


@dataclass(frozen=True)
class PackedLayout:
    """The origin of the ``P`` packed positions of a batch, longest history first.

    Attributes:
        row, column: int64 ``[P]``, indices into the padded input.
        place: int64 ``[P]``, position in the kept history, from 0.
        last: int64 ``[B]``, the last packed position of each row, -1 for an empty history.
        groups: the groups, which cover all positions in order.
    """

    row: Tensor
    column: Tensor
    place: Tensor
    last: Tensor
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, lengths: Tensor, max_length: int, n_heads: int) -> PackedLayout:
        """Build the layout of right-padded rows from int64 ``[B]`` lengths.

        Of a history longer than ``max_length`` the latest positions are kept.
        """
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
    """Return the bucket of the time from each key to the item after each query.

    The bucket is floor(ln(max(1, |t_{i+1} - t_j|)) / 0.301), at most 128.

    Args:
        layout: the packing.
        times: int64 ``[P]``, time of each position.
        following: int64 ``[P]``, time of the item after it.

    Returns:
        uint8 ``[b, L, L]`` per group, query before key. Values in padded cells are not used.
    """
    return tuple(
        _buckets(following[group.start : group.stop][group.index], times[group.start : group.stop][group.index])
        for group in layout.groups
    )


def _buckets(after: Tensor, times: Tensor) -> Tensor:
    return bucket_of((after.unsqueeze(2) - times.unsqueeze(1)).abs_().clamp_(min=1).float())


def bucket_of(apart: Tensor) -> Tensor:
    """Return the bucket of seconds, float32 ``[...]`` of at least 1 -> uint8 ``[...]``."""
    return (torch.log(apart) / 0.301).clamp_(max=N_BUCKETS).to(torch.uint8)
