"""The size of a model: its number of parameters and the bytes of its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.utils import ModelType
from scipy import sparse
from torch import nn


def size_of(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters of a model and the bytes of its weights.

    RecBole's checkpoints also hold Adam's moments and cached tables, which do not count. For a model without trained
    weights, such as EASE or ItemKNN, the similarities and counts that it keeps are counted instead.
    """
    if getattr(model, "type", None) == ModelType.TRADITIONAL:
        kept = [_stored(value) for value in (model.other_parameter() or {}).values()]  # type: ignore[operator]
        return {"parameters": sum(count for count, _ in kept), "bytes": sum(size for _, size in kept)}
    weights = dict(model.state_dict())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": sum(t.numel() * t.element_size() for t in weights.values()),
    }


def _stored(value: Any) -> tuple[int, int]:
    """Return the count and bytes of a dense or sparse array's stored numbers, else (0, 0)."""
    if torch.is_tensor(value):
        values = value.coalesce().values() if value.is_sparse else value
        return values.numel(), values.numel() * values.element_size()
    if sparse.issparse(value):
        matrix = value.tocsr()
        return int(matrix.nnz), int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)
    return (int(value.size), int(value.nbytes)) if isinstance(value, np.ndarray) else (0, 0)
