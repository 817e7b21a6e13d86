"""A model frozen for a block of calls: evaluation mode, and one encoding for all calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from recbole_kd.scoring.step_cache import VectorCache
from recbole_kd.scoring.vector_models import cached_names


@dataclass
class FrozenCache(VectorCache):
    """The vectors of a frozen model, constant over all calls."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode without gradients, and restore its mode afterwards.

    Scores that the model cached itself are dropped before and after. The flag of each module is set directly, because
    SGL.train() would rebuild its graphs.
    """
    flags = [(module, module.training) for module in model.modules()]
    for module, _ in flags:
        module.training = False
    forget_cached_scores(model)
    try:
        with torch.no_grad():
            yield
    finally:
        forget_cached_scores(model)
        for module, training in flags:
            module.training = training


def forget_cached_scores(model: nn.Module) -> None:
    """Drop the propagated tables that a model caches, which are stale after a training step."""
    for name in cached_names(model):
        setattr(model, name, None)
