"""The compiled ranking of dot products, for torch tensors on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from recbole_kd.ops.compiled import kernels
from recbole_kd.ops.ragged import Ragged

WIDEST = 128
"""Widest vectors; a matrix product of wider ones takes longer than what is saved."""


@cache
def ranking_kernels() -> Any:
    """Return the module of kernels; call only if :func:`recbole_kd.ops.compiled.kernels` is not None."""
    from recbole_kd.ops.kernels import product_ranking

    return product_ranking


def in_panels(items: Tensor, size: int) -> Tensor:
    """Lay out vectors with ``size`` of them side by side: ``[I, d]`` -> ``[n_panels, d, size]``.

    The last panel is filled up with zeros.
    """
    n_items, width = items.shape
    panels, whole = items.new_zeros(-(-n_items // size), width, size), n_items // size
    panels[:whole] = items[: whole * size].view(whole, size, width).transpose(1, 2)
    if whole < len(panels):
        panels[whole, :, : n_items - whole * size] = items[whole * size :].T
    return panels


@dataclass(frozen=True)
class ProductRanking:
    """The items of a catalogue, laid out for :mod:`recbole_kd.ops.kernels.product_ranking`.

    Attributes:
        query_vectors: float32 ``[n_queries, d]``. n_items: the size of the catalogue, pad item included.
        panels: float32 ``[n_panels, d, PANEL]``.
    """

    query_vectors: Tensor
    n_items: int
    panels: Tensor

    @classmethod
    def of(cls, query_vectors: Tensor, item_vectors: Tensor) -> ProductRanking | None:
        """Return the ranking, or None if the kernel does not apply or a product may not be finite."""
        tables = query_vectors.detach(), item_vectors.detach()
        if kernels() is None or any(table.device.type != "cpu" or table.dtype != torch.float32 for table in tables):
            return None
        width, n_items = item_vectors.shape[1], len(item_vectors)
        if not 0 < width <= WIDEST or not all(map(len, tables)):
            return None
        largest = [float(table.abs().amax()) for table in tables]  # NaN if a number is
        if not width * largest[0] * largest[1] < torch.finfo(torch.float32).max or not max(largest) < torch.inf:
            return None
        return cls(tables[0], n_items, in_panels(tables[1], ranking_kernels().PANEL))

    def rank(self, queries: Tensor, k: int, exclude: Ragged | None, ids: Tensor, values: Tensor) -> None:
        """Write the lists of some queries, as :func:`recbole_kd.ops.topk.top_k_in_blocks` returns them.

        Args:
            queries: int64 ``[Q]``. ids: int64 ``[Q, k]`` and values: float32 ``[Q, k]``, written.
        """
        none = queries.new_zeros(len(queries))
        starts, ends = (none, none) if exclude is None else (exclude.starts[queries], exclude.starts[queries + 1])
        excluded = none if exclude is None else exclude.items
        ranking_kernels().rank_products(
            self.query_vectors[queries].contiguous().numpy(), self.panels.numpy(), self.n_items, k,
            *(table.contiguous().numpy() for table in (excluded, starts, ends, ids, values)),
        )  # fmt: skip
