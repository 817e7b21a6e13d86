"""The size of a model: its parameters, and the bytes of its weights."""

from __future__ import annotations

from torch import nn


def size_of(model: nn.Module) -> dict[str, int]:
    """Parameters, and bytes of the weights as safetensors (RecBole's checkpoints also hold Adam's moments and cached tables)."""
    weights = dict(model.state_dict())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": sum(t.numel() * t.element_size() for t in weights.values()),
    }
