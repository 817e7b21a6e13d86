"""Importance of the items of a teacher's list, for methods with the option ``list_weights``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from recbole_kd.config.validation import invalid, try_value
from recbole_kd.config.value_types import Expected, NonNegative
from recbole_kd.distiller.base import Distiller
from recbole_kd.losses.list_weights import list_weights
from recbole_kd.ops.membership import is_in

Shares = Annotated[
    dict[Literal["position", "confidence", "agreement"], NonNegative],
    Expected("a mapping of position, confidence or agreement to a number of at least 0"),
]
"""The share of each term of :func:`recbole_kd.losses.list_weights.list_weights`."""

EXAMPLE = {"position": 0.3, "agreement": 0.1}


def importance(
    distiller: Distiller, shares: Mapping[Any, float], ids: Tensor, tau: float, own: Tensor | None = None
) -> Tensor:
    """Return the weights of a list's items for all queries, float32 ``[n_queries, K]``.

    Args:
        distiller: its student is ranked if the agreement counts.
        shares: of the terms.
        ids: int64 ``[n_queries, K]``, the teacher's lists, with 0 where a list is shorter.
        tau: T of the position's term.
        own: int64 ``[n_queries, K]``, the student's lists; None ranks its items here if the agreement counts.
    """
    queries, confidence, agreed = distiller.all_queries(), None, None
    if shares.get("confidence"):
        confidence = distiller.teacher_scores.confidence(queries, ids)
    if shares.get("agreement"):
        masked = distiller.train_items if distiller.mask_train else None
        own = distiller.student_scorer.top_k(queries, ids.shape[1], masked)[0] if own is None else own
        agreed = is_in(ids, own)
    return list_weights(shares, ids > 0, tau, confidence, agreed)


def log_of(weights: Tensor) -> Tensor:
    """Return the logarithm of weights, finite where a weight is 0.

    Added to a teacher's scores, times the temperature, it multiplies their softmax by the weights.
    """
    return weights.clamp(min=torch.finfo(torch.float32).tiny).log()


def idle_list_tau(options: Mapping[str, Any]) -> dict[str, str]:
    """Return ``list_tau`` with what makes it idle, or nothing if it is read."""
    by_rank = (options.get("list_weights") or {}).get("position")
    return {} if by_rank else {"list_tau": "kd_list_weights without a position"}


class ListWeighted(Distiller):
    """A method with the option ``list_weights``: shares of rank, confidence and agreement, or None."""

    @classmethod
    def check(cls, n_queries: int, n_items: int, options: Mapping[str, Any]) -> None:
        shares = options.get("list_weights")
        if shares is not None and not any(shares.values()):
            raise invalid("kd_list_weights", shares, "expected a share above 0", try_value("kd_list_weights", EXAMPLE))

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> frozenset[str]:
        return cls.requires | ({"confidence"} if (options.get("list_weights") or {}).get("confidence") else set())

    @classmethod
    def asks_student(cls, options: Mapping[str, Any]) -> bool:
        return bool((options.get("list_weights") or {}).get("agreement"))
