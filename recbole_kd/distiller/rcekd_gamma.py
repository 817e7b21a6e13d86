"""gamma: the weight between RCE-KD's two cross-entropies (paper 5.4, C.5, Tables 8 to 10)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recbole_kd.config.validation import invalid
from recbole_kd.losses.cross_entropy import rce_weight

GammaRule = Literal["exponential", "linear", "user_specific", "fixed", "decreasing", "increasing", "global"]

OF_THE_EPOCH = ("decreasing", "increasing", "global")
"""Rules that depend on the epoch number."""


def gamma_weights(
    rule: str, overlap: Tensor, *, beta: float, constant: float, epoch: int, last_epoch: int | None
) -> Tensor:
    """Return gamma of each query, the weight of L2. The weight of L1 is 1 - gamma.

    Args:
        rule: ``exponential`` is exp(-beta o), the method; ``linear`` and ``user_specific`` are 1 - o; ``fixed`` is the
            constant; ``decreasing`` and ``global`` are 1 - t/Tmax; ``increasing`` is t/Tmax. The paper prints no
            formula for the last five. These are the readings that agree with its tables, where ``global`` has the
            numbers of ``decreasing`` and ``user_specific`` those of ``linear``.
        overlap: o, float ``[U]``, share of the teacher's list that the student has.
        beta, constant: parameters of the rules.
        epoch: t, from 0.
        last_epoch: Tmax.

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


READ_BY = {"beta": ("exponential",), "gamma_constant": ("fixed",), "gamma_epochs": OF_THE_EPOCH}
"""Option of RCEKD -> the rules that read it."""


def idle_of_gamma(rule: str, reason: str) -> dict[str, str]:
    """Return the options that a rule does not read, each with the reason."""
    return {option: reason for option, rules in READ_BY.items() if rule not in rules}


def check_gamma(rule: str, last_epoch: int | None) -> None:
    """Refuse a rule that runs over Tmax epochs if Tmax is not given.

    Raises:
        ConfigError: Tmax is not given.
    """
    if rule in OF_THE_EPOCH and last_epoch is None:
        reason = "it runs over Tmax epochs, which early stopping leaves open"
        raise invalid(
            "kd_gamma", rule, reason, "Set kd_gamma_epochs, such as to the epochs of a finished exponential run"
        )
