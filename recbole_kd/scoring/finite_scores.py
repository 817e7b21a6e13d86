"""Checks that a model's scores are finite numbers before they are ranked or exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_kd.errors import DivergedError
from recbole_kd.ops.topk import DotProducts, blocks


def not_finite(model: str, doing: str) -> DivergedError:
    """Return the error for a model whose scores are inf or nan.

    Args:
        model: its name.
        doing: ends the phrase "they cannot be", such as ``ranked``.
    """
    return DivergedError(
        f"The scores of {model} are inf or nan, they cannot be {doing}: its training has diverged, lower its "
        "learning_rate, or set clip_grad_norm={'max_norm': 1.0}"
    )


def check_scores(scores: Tensor, masked: Sequence[tuple[Tensor, Tensor]], model: str) -> None:
    """Refuse score rows that hold an unmasked inf or nan.

    Args:
        scores: float ``[B, n_items]``; column 0 is the pad.
        masked: (rows, columns) int64 pairs whose scores do not count.

    Raises:
        DivergedError: a score is not a finite number.
    """
    finite = torch.isfinite(scores)
    finite[:, 0] = True
    for rows, columns in masked:
        finite[rows, columns] = True
    if not bool(finite.all()):
        raise not_finite(model, "ranked")


def check_products(queries: Tensor, items: Tensor, model: str, doing: str = "ranked") -> None:
    """Refuse vectors whose dot products are not all finite.

    The norms bound every product, so the products themselves are computed only if the bound is near the type's limit.

    Args:
        queries: float ``[Q, d]``.
        items: float ``[n_items, d]`` without the pad.

    Raises:
        DivergedError: a product is inf or nan.
    """
    if not len(queries) or not len(items):
        return
    norms = [torch.linalg.vector_norm(table.detach(), dim=1, dtype=torch.float64).max() for table in (queries, items)]
    if float(norms[0] * norms[1]) < 0.5 * torch.finfo(queries.dtype).max:
        return
    if all(bool(torch.isfinite(norm)) for norm in norms):
        full = DotProducts(queries, items)
        rows = torch.arange(len(queries), device=queries.device)
        if all(
            bool(torch.isfinite(full(rows[some])).all()) for some in blocks(len(queries), len(items), queries.device)
        ):
            return
    raise not_finite(model, doing)
