"""Interface by which processes share work on many rows. No RecBole import."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Sharing(Protocol):
    """A split of a table's rows over processes, such as the ``Ranks`` of data_parallel."""

    def slice_of(self, n: int, grain: int = 1) -> slice:
        """Return this process's slice of n consecutive rows, in whole grains."""

    def gather(self, rows: Tensor, n: int, grain: int = 1) -> Tensor:
        """Return all processes' slices of a table of n rows, concatenated in order."""
