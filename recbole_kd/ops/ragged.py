"""Ragged lists: the items of each query (its training items, say), as two flat tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Items by row: row r holds ``items[starts[r]:starts[r + 1]]``, sorted by id and distinct.

    Attributes:
        starts: int64 ``[R + 1]``. items: int64 ``[N]``.
    """

    starts: Tensor
    items: Tensor

    @classmethod
    def from_pairs(cls, rows: np.ndarray, items: np.ndarray, n_rows: int) -> Ragged:
        """Build from parallel arrays of row and item ids; repeated pairs are kept once."""
        pairs = np.unique(np.stack([rows.astype(np.int64), items.astype(np.int64)], axis=1), axis=0)
        starts = np.zeros(n_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(pairs[:, 0], minlength=n_rows), out=starts[1:])
        return cls(torch.from_numpy(starts), torch.from_numpy(np.ascontiguousarray(pairs[:, 1])))

    def to(self, device: torch.device | str) -> Ragged:
        return Ragged(self.starts.to(device), self.items.to(device))

    def of_rows(self, rows: Tensor) -> Ragged:
        """Return the lists of the chosen rows, int64 ``[B]``, in that order."""
        lengths = self.counts()[rows]
        return Ragged(torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), self.pairs(rows)[1])

    def counts(self) -> Tensor:
        """Return the number of items of each row, int64 ``[R]``."""
        return self.starts.diff()

    def pairs(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return all (position in ``rows``, item) pairs of the given rows, two int64 ``[n]``."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        position = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), lengths)
        offset = torch.arange(len(position), device=rows.device) - (lengths.cumsum(0) - lengths)[position]
        return position, self.items[self.starts[rows][position] + offset]

    def first(self, rows: Tensor, n: int) -> Tensor:
        """Return the first n items of the given rows, int64 ``[B, n]``, filled up with 0.

        Nothing is read from the device.
        """
        place = torch.arange(n, device=rows.device)
        starts = self.starts[rows].unsqueeze(1)
        at = (starts + place).clamp(max=max(0, len(self.items) - 1))
        items = self.items if len(self.items) else self.items.new_zeros(1)
        return items[at].masked_fill(place >= self.starts[rows + 1].unsqueeze(1) - starts, 0)

    def contains(self, rows: Tensor, items: Tensor) -> Tensor:
        """Test row by row whether the given items are in the lists; one binary search an item.

        Args:
            rows: int64 ``[B]``. items: int64 ``[B, n]``, >= 0.

        Returns:
            bool ``[B, n]``.
        """
        if len(self.items) == 0 or items.numel() == 0:
            return torch.zeros_like(items, dtype=torch.bool)
        width = max(int(self.items.max()), int(items.max())) + 1
        row_of = torch.repeat_interleave(torch.arange(len(self.starts) - 1, device=self.items.device), self.counts())
        keys = row_of * width + self.items
        wanted = rows.unsqueeze(1) * width + items
        place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        return keys[place] == wanted
