"""The optimiser's step: Adam in its fused form, and gradients clipped after unscaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


def fused(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return an optimiser of Adam's family in its fused form, any other one as it is.

    Fused Adam makes one pass over memory, plain Adam about ten.

    Args:
        optimizer: a new one of RecBole's.
        parameters: what it updates.
    """
    if not isinstance(optimizer, torch.optim.Adam):
        return optimizer
    kept = {name: optimizer.defaults[name] for name in ("lr", "weight_decay")}
    return type(optimizer)(parameters, **kept, fused=True)


def clip_gradients(optimizer: torch.optim.Optimizer, options: Mapping[str, Any]) -> None:
    """Clip the gradients of all parameters of an optimiser, which are unscaled at its step.

    Args:
        optimizer: about to step.
        options: arguments of :func:`torch.nn.utils.clip_grad_norm_`, the key ``clip_grad_norm``.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(params, **options)
