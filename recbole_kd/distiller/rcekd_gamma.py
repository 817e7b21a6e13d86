"""gamma: how RCE-KD weighs its two cross-entropies (paper 5.4 and C.5, Tables 8 to 10)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recbole_kd.config.validation import invalid
from recbole_kd.losses.cross_entropy import rce_weight

GammaRule = Literal["exponential", "linear", "user_specific", "fixed", "decreasing", "increasing", "global"]

OF_THE_EPOCH = ("decreasing", "increasing", "global")
"""Rules that count epochs."""


def gamma_weights(
    rule: str, overlap: Tensor, *, beta: float, constant: float, epoch: int, last_epoch: int | None
) -> Tensor:
    """gamma of each query, the weight of L2; 1 - gamma is that of L1.

    Args:
        rule: ``exponential`` exp(-beta o), the method; ``linear`` (= ``user_specific``) 1 - o; ``fixed`` the constant;
            ``decreasing`` (= ``global``) 1 - t/Tmax; ``increasing`` t/Tmax. The paper prints no formula for the last
            five: these are the readings that agree with its tables (``global`` has the numbers of ``decreasing``,
                ``user_specific`` those of ``linear``).
        overlap: float ``[U]``, share of the teacher's list that the student has.
        epoch: t, from 0. last_epoch: Tmax.

    Returns:
        float ``[U]`` in [0, 1].
    """
    if rule == "exponential":
        return rce_weight(overlap, beta)
    if rule in ("linear", "user_specific"):
        return 1.0 - overlap
    if rule == "fixed":
        return torch.full_like(overlap, constant)
    assert last_epoch is not None
    share = min(1.0, epoch / last_epoch)
    return torch.full_like(overlap, share if rule == "increasing" else 1.0 - share)


def check_gamma(rule: str, last_epoch: int | None) -> None:
    """Refuse a rule that runs over Tmax epochs if their number is not given.

    Raises:
        ConfigError: it is not given.
    """
    if rule in OF_THE_EPOCH and last_epoch is None:
        reason = "it runs over Tmax epochs, which early stopping leaves open"
        raise invalid(
            "kd_gamma", rule, reason, "Set kd_gamma_epochs, such as to the epochs of a finished exponential run"
        )
