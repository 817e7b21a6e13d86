"""Training histories of all users, packed and as right-padded batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_kd.data.preparing.split_rules import rank_in_group


@dataclass(frozen=True)
class Histories:
    """The latest ``max_length`` items of each user, oldest first.

    Attributes:
        starts: int64 ``[n_users + 1]``. items: int64 ``[N]``; user u owns ``starts[u]`` to ``starts[u + 1] - 1``.
        times: int64 or float64 ``[N]``.
    """

    starts: Tensor
    items: Tensor
    times: Tensor

    @classmethod
    def of(
        cls, users: np.ndarray, items: np.ndarray, times: np.ndarray, rows: np.ndarray, n_users: int, max_length: int
    ) -> Histories:
        """Build from interactions in any order; ties are ordered by ``rows``, the row in the file.

        Args:
            users, items, times, rows: ``[n]`` each.
        """
        order = np.lexsort((-rows, -times, users))  # latest first
        order = order[rank_in_group(users[order]) < max_length][::-1]
        order = order[np.argsort(users[order], kind="stable")]
        starts = np.zeros(n_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(users[order], minlength=n_users), out=starts[1:])
        return cls(
            torch.from_numpy(starts), torch.from_numpy(items[order].astype(np.int64)), torch.from_numpy(times[order])
        )


def padded_histories(starts: Tensor, items: Tensor, times: Tensor, users: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the histories of chosen users, right padded with zeros to L >= 1 columns.

    Returns:
        items int64 ``[B, L]``, lengths int64 ``[B]``, times ``[B, L]``.
    """
    first = starts[users]
    lengths = starts[users + 1] - first
    width = max(1, int(lengths.max())) if len(users) else 1
    across = torch.arange(width, device=starts.device)
    past = across >= lengths.unsqueeze(1)
    if len(items) == 0:
        nothing = torch.zeros_like(past, dtype=torch.int64)
        return nothing, lengths, nothing.to(times.dtype)
    at = (first.unsqueeze(1) + across).clamp(max=len(items) - 1)
    return items[at].masked_fill(past, 0), lengths, times[at].masked_fill(past, 0)
