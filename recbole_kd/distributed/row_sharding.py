"""How processes share work out that is done for many rows. No RecBole import."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Sharing(Protocol):
    """How several processes share the rows of a table out; :class:`recbole_kd.distributed.data_parallel.Ranks` is one."""

    def slice_of(self, n: int, grain: int = 1) -> slice:
        """This process's part of n consecutive rows, in whole grains of so many rows."""

    def gather(self, rows: Tensor, n: int, grain: int = 1) -> Tensor:
        """All processes' parts of a table of n rows, in order."""
