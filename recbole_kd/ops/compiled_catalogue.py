"""Compiled softmax terms over a whole catalogue, for torch tensors on a CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from recbole_kd.ops.compiled import kernels
from recbole_kd.ops.compiled_ranking import WIDEST, in_panels
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.threads import in_halves, n_threads


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
    if not 0 < items.shape[1] <= WIDEST or not len(queries):
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
    d_items = d_panels[0].add_(d_panels[1]).transpose(1, 2).reshape(-1, items.shape[1])[: len(items)]
    return rest, d_queries, d_items, d_below
