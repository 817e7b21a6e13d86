r"""SASRec's history vector, with only the last position computed in the last layer.

One query a history does not need the keys and values of the layer as tables: ``q . (W_k x + b_k)`` is
``(W_k^T q) . x + q . b_k``, and ``sum_j p_j (W_v x_j + b_v)`` is ``W_v sum_j p_j x_j + b_v sum_j p_j``. The cost falls
from ``L * d * d`` to ``heads * L * d`` a history.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MASKED = -10000.0
"""RecBole adds this to the score of a masked position."""


def last_position_vectors(model: Any, items: Tensor, lengths: Tensor) -> Tensor:
    """Return the output of RecBole's ``SASRec.forward``, up to rounding and dropout masks.

    Args:
        items: int64 ``[B, L]``, right padded. lengths: int64 ``[B]``, at least 1.

    Returns:
        float ``[B, d]``.
    """
    positions = model.position_embedding.weight[: items.size(1)]
    hidden = model.dropout(model.LayerNorm(model.item_embedding(items) + positions))
    layers = model.trm_encoder.layer
    if len(layers) > 1:
        mask = model.get_attention_mask(items)
        for layer in layers[:-1]:
            hidden = layer(hidden, mask)
    own = hidden[torch.arange(len(items), device=items.device), lengths - 1]
    attended = _attention_of_one(layers[-1].multi_head_attention, own, hidden, items > 0)
    vectors: Tensor = layers[-1].feed_forward(attended)
    return vectors


def _attention_of_one(layer: Any, own: Tensor, hidden: Tensor, there: Tensor) -> Tensor:
    """Return the output of RecBole's MultiHeadAttention for one query a row.

    Args:
        own: float ``[B, d]``, the position of the query. hidden: float ``[B, L, d]``.
        there: bool ``[B, L]``, positions that are attended to.
    """
    heads, width = layer.num_attention_heads, layer.attention_head_size
    query = layer.query(own).unflatten(-1, (heads, width))
    key, value = (part.weight.unflatten(0, (heads, width)) for part in (layer.key, layer.value))
    scores = torch.einsum("bhw,hwd->bhd", query, key) @ hidden.transpose(1, 2)
    scores = scores + (query * layer.key.bias.unflatten(0, (heads, width))).sum(-1, keepdim=True)
    scores = scores / layer.sqrt_attention_head_size + torch.where(there, 0.0, MASKED).unsqueeze(1)
    shares = layer.attn_dropout(layer.softmax(scores))
    context = torch.einsum("bhd,hwd->bhw", shares @ hidden, value)
    context = context + shares.sum(-1, keepdim=True) * layer.value.bias.unflatten(0, (heads, width))
    attended: Tensor = layer.LayerNorm(layer.out_dropout(layer.dense(context.flatten(1))) + own)
    return attended
