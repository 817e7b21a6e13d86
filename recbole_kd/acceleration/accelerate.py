"""CPU replacements for slow parts of a RecBole model, applied in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recbole_kd.acceleration.fused_softmax import fuse_softmax
from recbole_kd.acceleration.length_groups import encode_by_length
from recbole_kd.acceleration.lightgcn_propagation import accelerate


def accelerate_on_cpu(model: Any, softmax: nn.CrossEntropyLoss | None = None) -> None:
    """Replace the parts of a RecBole model that are slow on a CPU, in place.

    Scores, losses and gradients equal RecBole's up to rounding. A model on another device stays unchanged.

    Args:
        model: a RecBole general or sequential recommender, before its training.
        softmax: the module to which the model's own loss passes the scores of all items, if it has one
            (:func:`recbole_kd.scoring.vector_models.softmax_of`).
    """
    if torch.device(model.device).type != "cpu":
        return
    accelerate(model)
    encode_by_length(model)
    if softmax is not None:
        fuse_softmax(softmax)
