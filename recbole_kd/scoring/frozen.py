"""A model that is frozen for a block of calls: evaluation mode, one encoding for all of them, no trace left in the model."""

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
    """Vectors of a frozen model: constants, the same for all calls."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within it the model is in evaluation mode and computes no gradients, and scores that it cached itself are dropped before and after.

    It sets the flag of each module itself: SGL.train() would rebuild its graphs.
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
    """Drop the propagated tables that a model keeps for ``full_sort_predict``: after a training step they are old."""
    for name in cached_names(model):
        setattr(model, name, None)
