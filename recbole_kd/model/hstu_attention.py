"""HSTU's pointwise attention over packed histories, one group of histories at a time.

Autograd would keep three ``[B, heads, L, L]`` tensors per block. Here the backward pass computes the scores again,
which is cheaper than reading them back when a head has 8 or 16 columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_kd.model.hstu_packing import Group, PackedLayout


@dataclass(frozen=True)
class Shape:
    """The constants of the attention.

    Attributes:
        n_heads: number of heads.
        divisor: the constant n = maximum length + 10 that divides the values of SiLU. The position table has 2 n - 1
            rows.
    """

    n_heads: int
    divisor: int


def pointwise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position_weight: Tensor | None,
    time_weight: Tensor | None,
    layout: PackedLayout,
    buckets: Sequence[Tensor],
    shape: Shape,
) -> Tensor:
    """Return ``SiLU(Q K^T + b_pos + b_time) / n`` under the causal mask, times ``V``.

    There is no softmax and no 1/sqrt(d).

    Args:
        query, key: float ``[P, heads * a]`` for P packed positions.
        value: float ``[P, heads * v]``.
        position_weight: float ``[2 n - 1]``, one scalar per offset j - i, shared by the heads.
        time_weight: float ``[129]``, one scalar per bucket, shared by the heads.
        layout: the packing.
        buckets: uint8 ``[b, L, L]`` per group. Empty without a time_weight.
        shape: the constants.

    Returns:
        float ``[P, heads * v]``, once differentiable.
    """
    floats = [x if x.dtype == torch.float64 else x.float() for x in (query, key, value)]
    result: Tensor = _PointwiseAttention.apply(*floats, position_weight, time_weight, layout, buckets, shape)
    return result


def _spread(packed: Tensor, group: Group, n_heads: int) -> Tensor:
    """Pad packed ``[P, heads * c]`` to ``[b, heads, L, c]`` of a group."""
    rows, width = group.index.shape
    padded = packed[group.start : group.stop].index_select(0, group.index.view(-1))
    return padded.view(rows, width, n_heads, -1).transpose(1, 2).contiguous()


def _packed(padded: Tensor, group: Group) -> Tensor:
    """Pack padded ``[b, heads, L, c]`` to ``[stop - start, heads * c]``."""
    rows, n_heads, width, size = padded.shape
    return padded.transpose(1, 2).reshape(rows * width, n_heads * size).index_select(0, group.places)


def _offsets(width: int, divisor: int, device: torch.device) -> Tensor:
    """Return the row of the position table for each pair (query i, key j): int64 ``[L, L]``."""
    at = torch.arange(width, device=device)
    return at - at.unsqueeze(1) + divisor - 1


def _scores(
    query: Tensor,
    key: Tensor,
    position_weight: Tensor | None,
    time_weight: Tensor | None,
    bucket: Tensor | None,
    n: int,
) -> Tensor:
    """Return scores before SiLU, ``[b, heads, L, L]``, zero if the key comes after the query.

    SiLU of zero is zero.
    """
    scores = query @ key.transpose(2, 3)
    if position_weight is not None:
        scores += position_weight[_offsets(scores.shape[-1], n, scores.device)]
    if time_weight is not None and bucket is not None:
        scores += time_weight[bucket.long()].unsqueeze(1)
    return scores.tril_()


class _PointwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        position_weight: Tensor | None,
        time_weight: Tensor | None,
        layout: PackedLayout,
        buckets: Sequence[Tensor],
        shape: Shape,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, position_weight, time_weight)
        ctx.rest = layout, buckets, shape
        out = torch.empty_like(value)
        with torch.autocast(device_type=query.device.type, enabled=False):
            for number, group in enumerate(layout.groups):
                q, k, v = (_spread(x, group, shape.n_heads) for x in (query, key, value))
                scores = _scores(
                    q, k, position_weight, time_weight, buckets[number] if buckets else None, shape.divisor
                )
                weights = torch.nn.functional.silu(scores, inplace=True)
                out[group.start : group.stop] = _packed(weights @ v, group)
        return out.div_(shape.divisor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, position_weight, time_weight = ctx.saved_tensors
        layout, buckets, shape = ctx.rest
        grad = grad.contiguous() / shape.divisor
        d_query, d_key, d_value = (torch.empty_like(x) for x in (query, key, value))
        d_position, d_time = (
            None if weight is None else torch.zeros_like(weight) for weight in (position_weight, time_weight)
        )
        with torch.autocast(device_type=grad.device.type, enabled=False):
            for number, group in enumerate(layout.groups):
                bucket = buckets[number] if buckets else None
                q, k, v, g = (_spread(x, group, shape.n_heads) for x in (query, key, value, grad))
                g.masked_fill_(group.padding[:, None, :, None], 0.0)
                scores = _scores(q, k, position_weight, time_weight, bucket, shape.divisor)
                d_scores, weights = _through_silu(scores, g @ v.transpose(2, 3))
                packed = slice(group.start, group.stop)
                d_value[packed] = _packed(weights.transpose(2, 3) @ g, group)
                d_query[packed] = _packed(d_scores @ k, group)
                d_key[packed] = _packed(d_scores.transpose(2, 3) @ q, group)
                _add_bias_gradients(d_scores, bucket, shape.divisor, d_position, d_time)
        return d_query, d_key, d_value, d_position, d_time, None, None, None


def _through_silu(scores: Tensor, d_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return (gradient of the scores, SiLU of the scores), overwriting both arguments.

    With s = sigmoid(x): (x s)' = s + x s (1 - s).
    """
    gate = torch.sigmoid(scores)
    weights = scores.mul_(gate)
    slope = torch.addcmul(gate, weights, 1 - gate)
    return d_weights.mul_(slope).tril_(), weights


def _add_bias_gradients(
    d_scores: Tensor, bucket: Tensor | None, n: int, d_position: Tensor | None, d_time: Tensor | None
) -> None:
    if d_position is not None:
        width = d_scores.shape[-1]
        d_position.index_add_(0, _offsets(width, n, d_scores.device).view(-1), d_scores.sum((0, 1)).view(-1))
    if d_time is not None and bucket is not None:
        d_time.index_add_(0, bucket.reshape(-1).long(), d_scores.sum(1).view(-1))
