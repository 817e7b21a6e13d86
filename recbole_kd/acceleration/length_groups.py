"""Encoding of histories in groups of similar length, which skips most of the padding.

RecBole pads every history to MAX_ITEM_LIST_LENGTH; on Amazon Beauty 5 of 6 positions in its rows of 50 are padding.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from recbole.model.layers import FeedForward
from recbole.model.sequential_recommender import GRU4Rec, SASRec
from torch import Tensor
from torch.nn.functional import gelu

from recbole_kd.acceleration.sasrec_last_position import last_position_vectors
from recbole_kd.ops.length_groups import like_lengths

CAUSAL = (SASRec, GRU4Rec)
"""Models whose ``forward(item_seq, item_seq_len)`` takes right-padded, independent rows with positions from the
first."""


def encode_by_length(model: Any) -> None:
    """Make a SASRec or GRU4Rec on a CPU encode training batches in groups of similar length.

    It changes the model in place; other models stay unchanged. SASRec's last layer computes only the position that is
    read.

    A row's vector and its gradient equal RecBole's up to rounding (tested). Dropout draws its masks group by group,
    so a training with dropout has other masks than RecBole's with the same seed. Subclasses keep their own forward.
    """
    if type(model) not in CAUSAL or model.device.type != "cpu":
        return
    if type(model) is SASRec:
        _fuse_gelu(model)
    plain = type(model).forward
    encode = last_position_vectors if type(model) is SASRec else plain

    def forward(self: Any, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        if not self.training or not len(item_seq):
            return plain(self, item_seq, item_seq_len)
        return in_groups(lambda items, lengths: encode(self, items, lengths), item_seq, item_seq_len)

    model.forward = MethodType(forward, model)  # bound, so that a copy of the model encodes with its own weights


def _fuse_gelu(model: Any) -> None:
    """Replace RecBole's gelu, which takes five passes over memory, by torch's."""
    for layer in model.trm_encoder.layer:
        if getattr(layer.feed_forward.intermediate_act_fn, "__func__", None) is FeedForward.gelu:
            layer.feed_forward.intermediate_act_fn = gelu


def in_groups(encode: Callable[[Tensor, Tensor], Tensor], items: Tensor, lengths: Tensor) -> Tensor:
    """Return ``encode(items, lengths)``, computed for groups of similar length, in row order.

    Each group is cut to its longest row.

    Args:
        encode: int64 ``[b, L]``, int64 ``[b]`` -> float ``[b, d]``, with independent rows.
        items: int64 ``[B, W]``, right padded. lengths: int64 ``[B]``.
    """
    sizes, order = torch.sort(lengths, descending=True, stable=True)
    groups = [order[first:stop] for first, stop in like_lengths(sizes.clamp(min=1).numpy())]
    vectors = torch.cat([encode(items[rows, : int(lengths[rows[0]])], lengths[rows]) for rows in groups])
    return vectors.index_select(0, order.argsort())
