"""Histories of like length are encoded together, so that a CPU does not work through the padding of RecBole's rows.

RecBole pads every history to MAX_ITEM_LIST_LENGTH; of Amazon Beauty's rows of 50 places 5 of 6 are padding.
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
"""Models whose ``forward(item_seq, item_seq_len)`` takes right-padded rows, each for itself, with positions that count from the first."""


def encode_by_length(model: Any) -> None:
    """Let a SASRec or GRU4Rec on a CPU encode its training batches in groups of like length, in place; others are left as they are. Of
    SASRec's last layer only what is read is made.

    A row's vector and its gradient are RecBole's up to rounding (tested). Dropout draws its masks group by group, so
    that a training with dropout has other masks than RecBole's of the same seed. Subclasses keep their own forward.
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
    """torch's gelu for RecBole's, which is the same in five passes over memory."""
    for layer in model.trm_encoder.layer:
        if getattr(layer.feed_forward.intermediate_act_fn, "__func__", None) is FeedForward.gelu:
            layer.feed_forward.intermediate_act_fn = gelu


def in_groups(encode: Callable[[Tensor, Tensor], Tensor], items: Tensor, lengths: Tensor) -> Tensor:
    """``encode(items, lengths)`` of groups of rows of like length, each cut to its longest, in the order of the rows.

    Args:
        encode: int64 ``[b, L]``, int64 ``[b]`` -> float ``[b, d]``, each row for itself.
        items: int64 ``[B, W]``, right padded. lengths: int64 ``[B]``.
    """
    sizes, order = torch.sort(lengths, descending=True, stable=True)
    groups = [order[first:stop] for first, stop in like_lengths(sizes.clamp(min=1).numpy())]
    vectors = torch.cat([encode(items[rows, : int(lengths[rows[0]])], lengths[rows]) for rows in groups])
    return vectors.index_select(0, order.argsort())
