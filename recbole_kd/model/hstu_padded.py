"""HSTU's user vectors on right-padded histories, by operations that can be traced.

:mod:`recbole_kd.model.hstu_encoder` packs histories of unequal length, by steps that depend on the lengths. Here every
history is as wide as the longest one. The vectors are equal up to rounding (tested).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_kd.model.hstu_encoder import NORM_EPS, HSTUBlock, HSTUEncoder, unit
from recbole_kd.model.hstu_packing import N_BUCKETS, bucket_of

LARGEST_FLOAT = 0x7F7FFFFF
"""Bits of the largest finite float32."""


class PaddedHSTU(nn.Module):
    """The last vector of each history, like ``HSTUEncoder(...).last()``.

    Each history has at least one item.

    Args:
        encoder: a trained encoder.
        has_times: whether the histories have times.
    """

    starts: Tensor

    def __init__(self, encoder: HSTUEncoder, has_times: bool) -> None:
        super().__init__()
        self.encoder, self.has_times = encoder, has_times
        self.register_buffer("starts", bucket_starts(), persistent=False)

    def forward(
        self, items: Tensor, lengths: Tensor, times: Tensor | None = None, asked: Tensor | None = None
    ) -> Tensor:
        """Return unit vectors, float ``[B, d]``.

        Args:
            items: int64 ``[B, L]``, right padded, L at most the maximum length.
            lengths: int64 ``[B]``, at least 1.
            times: int64 or float64 ``[B, L]``, in seconds.
            asked: ``[B]``, time of the query.
        """
        at = torch.arange(items.shape[1], device=items.device)
        x = self.encoder.item_embedding(items) * math.sqrt(self.encoder.sizes.embedding_size)
        x = x + self.encoder.position_embedding(at)
        buckets = self._buckets(at, lengths, times, asked) if self.encoder.sizes.time_bias else None
        for block in self.encoder.blocks:
            assert isinstance(block, HSTUBlock)
            x = _block(block, x, at, buckets)
        last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, x.shape[2])
        return unit(x.gather(1, last).squeeze(1))

    def _buckets(self, at: Tensor, lengths: Tensor, times: Tensor | None, asked: Tensor | None) -> Tensor:
        """Return the bucket of the time from each key to the item after each query.

        Returns:
            int64 ``[B or 1, L, L]``.
        """
        if not self.has_times or times is None or asked is None:
            times, after = at.unsqueeze(0), at.unsqueeze(0) + 1
        else:
            shifted = functional.pad(times[:, 1:], (0, 1))
            after = torch.where(at == lengths.unsqueeze(1) - 1, asked.unsqueeze(1), shifted)
        apart = (after.unsqueeze(2) - times.unsqueeze(1)).abs().clamp(min=1).float()
        # Logarithms of two libraries differ in the last bit, and with it the bucket: the starts decide.
        rough = (torch.log(apart) / 0.301).floor().clamp(0, N_BUCKETS).long()
        return rough + (apart >= self.starts[rough + 1]).long() - (apart < self.starts[rough]).long()


def bucket_starts() -> Tensor:
    """Return the smallest float32 of each bucket of times.

    Returns:
        float32 ``[N_BUCKETS + 2]``. The last entry is infinite.
    """
    wanted = torch.arange(N_BUCKETS + 1)
    low, high = torch.full_like(wanted, 0x3F800000 - 1), torch.full_like(wanted, LARGEST_FLOAT)
    for _ in range(32):  # bisection over the bits, which order positive floats; bits of 1.0 and more
        middle = (low + high + 1) // 2
        reached = bucket_of(middle.int().view(torch.float32)).long() >= wanted
        low, high = torch.where(reached, low, middle), torch.where(reached, middle - 1, high)
    starts = (high + 1).int().view(torch.float32).clamp(min=1)
    return torch.cat([starts, starts.new_full((1,), torch.inf)])


def _block(block: HSTUBlock, x: Tensor, at: Tensor, buckets: Tensor | None) -> Tensor:
    """Return :class:`HSTUBlock`'s output without dropout, float ``[B, L, d]``."""
    normed = functional.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
    u, v, q, k = functional.silu(normed @ block.uvqk).split(block.widths, dim=2)
    query, key, value = (part.unflatten(2, (block.shape.n_heads, -1)).transpose(1, 2) for part in (q, k, v))
    scores = query @ key.transpose(2, 3)
    if block.position_weight is not None:
        scores = scores + block.position_weight[at - at.unsqueeze(1) + block.shape.divisor - 1]
    if block.time_weight is not None and buckets is not None:
        scores = scores + block.time_weight[buckets].unsqueeze(1)
    mixed = (functional.silu(scores.tril()) @ value).transpose(1, 2).flatten(2) / block.shape.divisor
    gated = u * functional.layer_norm(mixed, mixed.shape[-1:], eps=NORM_EPS)
    output: Tensor = block.output(gated) + x
    return output
