"""Compiled softmax terms over a whole catalogue, for torch tensors on a CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.ops.compiled import kernels
from recbole_kd.ops.compiled_ranking import WIDEST, in_panels
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.threads import in_halves, n_threads

SCORES_FROM = 2**16
"""From so many scores on the kernels are loaded: below, matrix products take no time."""


WIDEST_SOFTMAX = 64
"""Widest vectors of :func:`target_cross_entropy`; for wider ones the matrix products of torch are faster."""


@cache
def catalogue_kernels() -> Any:
    """Return the module of kernels; call only if :func:`recbole_kd.ops.compiled.kernels` is not None."""
    from recbole_kd.ops.kernels import catalogue

    return catalogue


def rest_above(
    queries: Tensor, items: Tensor, rows: Tensor, listed: Tensor, excluded: Ragged, below: Tensor, factors: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Return log-sum-exps over each query's rest with their gradients.

    Products must stay below 60 ln 2.

    The arguments are those of :func:`recbole_kd.losses.unlisted_logsumexp.rest_above`.

    Returns:
        the log-sum-exps, float32 ``[B, 1]``, and the gradients in ``queries``, ``items`` and ``below``; None if the
        kernel does not apply.
    """
    tables = queries, items, below, factors
    if kernels() is None or any(table.device.type != "cpu" or table.dtype != torch.float32 for table in tables):
        return None
    if not 0 < items.shape[1] <= WIDEST or len(queries) * len(items) < max(1, SCORES_FROM):
        return None
    panels = in_panels(items.detach(), catalogue_kernels().PANEL)
    d_panels = [torch.zeros_like(panels) for _ in range(2)]
    rest, d_queries, d_below = below.new_empty(len(below), 1), torch.empty_like(queries), torch.empty_like(below)
    own, ids, apart, terms, shares, *written = (
        table.detach().contiguous().numpy()
        for table in (queries, rows, listed, below, factors, rest, d_queries, d_below)
    )
    sets = excluded.items.numpy(), excluded.starts.numpy()

    def work(half: slice) -> None:
        catalogue_kernels().rest_above(
            own[half], panels.numpy(), len(items), ids[half], apart[half], *sets, terms[half], shares[half],
            *(table[half] for table in written), d_panels[int(half.start > 0)].numpy(),
        )  # fmt: skip

    in_halves(work, len(queries), n_threads() > 1)
    return rest, d_queries, _items_of(d_panels, items), d_below


def full_cross_entropy(
    queries: Tensor, items: Tensor, weights: Tensor, teacher: Tensor, rows: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return :func:`recbole_kd.losses.catalogue_cross_entropy.full_cross_entropy` with gradients.

    Args:
        teacher: float32 ``[U, I]``, scores. rows: int64 ``[Q]``, the row of each query.

    Returns:
        the weighted losses, float32 ``[Q]``, and the gradients of their sum in ``queries`` and ``items``; None if the
        kernel does not apply.
    """
    tables = queries, items, weights, teacher
    if kernels() is None or any(table.device.type != "cpu" or table.dtype != torch.float32 for table in tables):
        return None
    if not 0 < items.shape[1] <= WIDEST or len(queries) * len(items) < max(1, SCORES_FROM):
        return None
    panels = in_panels(items.detach(), catalogue_kernels().PANEL)
    d_panels = [torch.zeros_like(panels) for _ in range(2)]
    losses, d_queries, factor = torch.empty(len(queries)), torch.empty_like(queries), np.float32(1 / temperature)
    own, places, shares, found, d_own = (
        table.detach().contiguous().numpy() for table in (queries, rows, weights, losses, d_queries)
    )
    scores = teacher.contiguous().numpy()

    def work(half: slice) -> None:
        catalogue_kernels().full_cross_entropy(
            own[half], panels.numpy(), len(items), scores, places[half], shares[half], factor, found[half], d_own[half],
            d_panels[int(half.start > 0)].numpy(),
        )  # fmt: skip

    in_halves(work, len(queries), n_threads() > 1)
    return losses, d_queries, _items_of(d_panels, items)


def target_cross_entropy(queries: Tensor, items: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the terms of :func:`recbole_kd.losses.catalogue_softmax.catalogue_softmax` with gradients.

    Args:
        queries: float32 ``[B, d]`` and items: float32 ``[I, d]``, whose products stay below 60 ln 2.
        targets: int64 ``[B]``, in [0, I).

    Returns:
        the losses, float32 ``[B]``, and the gradients of their sum in ``queries`` and ``items``; None if the kernel
        does not apply.
    """
    tables = queries, items
    if kernels() is None or any(table.device.type != "cpu" or table.dtype != torch.float32 for table in tables):
        return None
    if not 0 < items.shape[1] <= WIDEST_SOFTMAX or len(queries) * len(items) < max(1, SCORES_FROM):
        return None
    panels = in_panels(items.detach(), catalogue_kernels().PANEL)
    d_panels = [torch.zeros_like(panels) for _ in range(2)]
    losses, d_queries = torch.empty(len(queries)), torch.empty_like(queries, memory_format=torch.contiguous_format)
    own, places, found, d_own = (table.detach().contiguous().numpy() for table in (queries, targets, losses, d_queries))

    def work(half: slice) -> None:
        catalogue_kernels().target_cross_entropy(
            own[half], panels.numpy(), len(items), places[half], found[half], d_own[half],
            d_panels[int(half.start > 0)].numpy(),
        )  # fmt: skip

    in_halves(work, len(queries), n_threads() > 1)
    return losses, d_queries, _items_of(d_panels, items)


def _items_of(d_panels: list[Tensor], items: Tensor) -> Tensor:
    """Return the sum of two tables in panels as a table like ``items``, float32 ``[I, d]``."""
    return d_panels[0].add_(d_panels[1]).transpose(1, 2).reshape(-1, items.shape[1])[: len(items)]
