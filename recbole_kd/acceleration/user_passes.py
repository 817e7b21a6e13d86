"""Training of causal models by user: one pass over a history serves several of its positions.

Amazon Beauty has 131,413 training rows of 22,363 users. At length 50 their histories have 1,100,149 positions as rows.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from recbole.model.sequential_recommender import GRU4Rec, SASRec
from torch import Tensor, nn

from recbole_kd.losses.catalogue_softmax import catalogue_softmax
from recbole_kd.ops.length_groups import like_lengths


def encode_by_user(model: Any) -> None:
    """Make a SASRec or GRU4Rec encode a training batch in one pass per block of a user's rows, in place.

    A row whose history begins the next row's history is a position of that row's pass. So RecBole's own
    ``calculate_loss`` and a distiller, which ask for the vectors of rows, stay unchanged. Vectors, losses and gradients
    equal those of separate rows up to rounding. Dropout draws one mask for a pass, not one for each of its rows. A loss
    over all items (``loss_type=CE``) is computed in blocks, without a matrix of rows and items.

    Other models stay unchanged.
    """
    encode = ENCODERS.get(type(model))
    if encode is None:
        return
    plain = type(model).forward

    def forward(self: Any, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        if not self.training or not len(item_seq):
            return plain(self, item_seq, item_seq_len)
        return in_passes(lambda items: encode(self, items), item_seq, item_seq_len, getattr(self, "n_heads", 1))

    model.forward = MethodType(forward, model)  # bound, so that a copy of the model encodes with its own weights
    if type(model.loss_fct) is nn.CrossEntropyLoss:
        model.calculate_loss = MethodType(_softmax_loss, model)


def in_passes(encode: Callable[[Tensor], Tensor], items: Tensor, lengths: Tensor, n_heads: int = 1) -> Tensor:
    """Return the vector at the end of each row's history, from one pass for histories that begin alike.

    Rows share a pass if each begins the next one. Passes are computed in groups of similar length, each cut to its
    longest history.

    Args:
        encode: int64 ``[b, L]`` -> float ``[b, L, d]``, with independent rows; a position depends on the items before
            it alone.
        items: int64 ``[B, W]``, right padded. lengths: int64 ``[B]``, at least 1.
        n_heads: heads of the encoder's attention, which bound the size of a group.

    Returns:
        float ``[B, d]``.
    """
    ends = ~begins_the_next(items, lengths)
    carriers, place = items[ends], ends.cumsum(0) - ends.long()
    sizes, order = torch.sort(lengths[ends], descending=True, stable=True)
    on_host = sizes.cpu().numpy()
    first_of_pass = torch.empty_like(sizes)  # the pass's first position among all computed ones
    found, n = [], 0
    for first, stop in like_lengths(on_host, n_heads, on_cpu=items.device.type == "cpu"):
        some, width = order[first:stop], int(on_host[first])
        found.append(encode(carriers[some, :width]).flatten(0, 1))
        first_of_pass[some] = n + width * torch.arange(stop - first, device=items.device)
        n += width * (stop - first)
    return torch.cat(found).index_select(0, first_of_pass[place] + lengths - 1)


def begins_the_next(items: Tensor, lengths: Tensor) -> Tensor:
    """Return which rows' histories begin the next row's, bool ``[B]``.

    The last row's does not.

    Args:
        items: int64 ``[B, W]``, right padded. lengths: int64 ``[B]``.
    """
    past = torch.arange(items.shape[1], device=items.device) >= lengths[:-1].unsqueeze(1)
    alike = ((items[:-1] == items[1:]) | past).all(1) & (lengths[:-1] <= lengths[1:])
    return torch.cat([alike, alike.new_zeros(1)])


def _sasrec_positions(model: Any, items: Tensor) -> Tensor:
    """Return the vectors that RecBole's ``SASRec.forward`` gathers its own from, float ``[b, L, d]``."""
    hidden = model.item_embedding(items) + model.position_embedding.weight[: items.shape[1]]
    hidden = model.dropout(model.LayerNorm(hidden))
    layers: list[Tensor] = model.trm_encoder(hidden, model.get_attention_mask(items), output_all_encoded_layers=True)
    return layers[-1]


def _gru4rec_positions(model: Any, items: Tensor) -> Tensor:
    """Return the vectors that RecBole's ``GRU4Rec.forward`` gathers its own from, float ``[b, L, d]``."""
    vectors: Tensor = model.dense(model.gru_layers(model.emb_dropout(model.item_embedding(items)))[0])
    return vectors


ENCODERS: dict[type, Callable[[Any, Tensor], Tensor]] = {SASRec: _sasrec_positions, GRU4Rec: _gru4rec_positions}
"""Models that can train by user, and how each encodes all positions of histories."""


def _softmax_loss(self: Any, interaction: Any) -> Tensor:
    """Return RecBole's loss over all items, float ``[]``."""
    vectors = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
    return catalogue_softmax(vectors, self.item_embedding.weight, interaction[self.POS_ITEM_ID])
