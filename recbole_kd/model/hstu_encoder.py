"""HSTU: hierarchical sequential transduction units, in plain PyTorch without RecBole.

Source: Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", ICML 2024, and its research code (github meta-recsys/generative-recommenders). With the same weights
outputs and gradients are equal to that code (tested).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_kd.model.hstu_attention import Shape, pointwise_attention
from recbole_kd.model.hstu_packing import N_BUCKETS, PackedLayout, time_buckets

BEYOND = 10
"""Number of positions by which the published code pads histories beyond the maximum; it divides by the padded
length."""
NORM_EPS = 1e-6


@dataclass(frozen=True)
class HSTUSizes:
    """The sizes and switches of an encoder.

    Attributes:
        max_length: longest history.
        embedding_size: d.
        n_layers: number of blocks.
        n_heads: number of heads.
        attention_size: width of a head's query and key.
        linear_size: width of a head's value.
        input_dropout: dropout of the embedded history.
        linear_dropout: dropout before a block's output map.
        position_bias, time_bias: add learned scalars, by offset and by time difference, to the attention scores. The
            RCE-KD code uses neither.
        table_init: ``xavier_normal`` as in the RCE-KD code, or ``truncated_normal`` (0.02 for items, 1/sqrt(d) for
            positions) as in the original.
    """

    max_length: int
    embedding_size: int
    n_layers: int
    n_heads: int
    attention_size: int
    linear_size: int
    input_dropout: float = 0.0
    linear_dropout: float = 0.0
    position_bias: bool = True
    time_bias: bool = True
    table_init: str = "xavier_normal"

    @property
    def divisor(self) -> int:
        """n, independent of the longest history of a batch."""
        return self.max_length + BEYOND


@dataclass(frozen=True)
class Encoded:
    """A batch of encoded histories.

    Attributes:
        positions: float ``[P, d]``, unit vectors, one for each kept position.
        layout: the origin of each position.
    """

    positions: Tensor
    layout: PackedLayout

    def last(self) -> Tensor:
        """Return the vector at the end of each row, float ``[B, d]``; zeros for an empty history."""
        at = self.layout.last
        if len(self.positions) == 0:
            return self.positions.new_zeros(len(at), self.positions.shape[1])
        return self.positions.index_select(0, at.clamp(min=0)).masked_fill((at < 0).unsqueeze(1), 0.0)

    def padded(self) -> Tensor:
        """Return float ``[B, L, d]``, right padded with zeros to the longest kept history."""
        width = int(self.layout.place.max()) + 1 if len(self.positions) else 0
        out = self.positions.new_zeros(len(self.layout.last), width, self.positions.shape[1])
        return out.index_put((self.layout.row, self.layout.place), self.positions)


def unit(vectors: Tensor) -> Tensor:
    """Return the vectors divided by their length, which is at least 1e-6: float ``[..., d]``."""
    return vectors / torch.linalg.norm(vectors, dim=-1, keepdim=True).clamp(min=NORM_EPS)


class HSTUBlock(nn.Module):
    """One HSTU block.

    ``X + Wo dropout(U * LN(attention(Q, K, V)))`` with ``[U, V, Q, K] = SiLU(LN(X) W)``; LN has no scale and no shift.
    """

    def __init__(self, sizes: HSTUSizes) -> None:
        super().__init__()
        heads, values, queries = sizes.n_heads, sizes.n_heads * sizes.linear_size, sizes.n_heads * sizes.attention_size
        self.sizes = sizes
        self.widths = [values, values, queries, queries]
        self.uvqk = nn.Parameter(torch.empty(sizes.embedding_size, sum(self.widths)).normal_(std=0.02))
        self.output = nn.Linear(values, sizes.embedding_size)
        nn.init.xavier_uniform_(self.output.weight)
        self.position_weight = (
            nn.Parameter(torch.empty(2 * sizes.divisor - 1).normal_(std=0.02)) if sizes.position_bias else None
        )
        self.time_weight = nn.Parameter(torch.empty(N_BUCKETS + 1).normal_(std=0.02)) if sizes.time_bias else None
        self.shape = Shape(heads, sizes.divisor)

    def forward(self, x: Tensor, layout: PackedLayout, buckets: Sequence[Tensor]) -> Tensor:
        """Apply the block: float ``[P, d]`` -> float ``[P, d]``."""
        normed = functional.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
        u, v, q, k = functional.silu(normed @ self.uvqk).split(self.widths, dim=1)
        mixed = pointwise_attention(q, k, v, self.position_weight, self.time_weight, layout, buckets, self.shape)
        gated = u * functional.layer_norm(mixed, mixed.shape[-1:], eps=NORM_EPS)
        return self.output(functional.dropout(gated, self.sizes.linear_dropout, self.training)) + x


class HSTUEncoder(nn.Module):
    """The encoder of right-padded histories of item ids: item table, positions and blocks.

    Args:
        n_items: rows of the item table, row 0 the pad.
        sizes: see :class:`HSTUSizes`.
    """

    def __init__(self, n_items: int, sizes: HSTUSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.item_embedding = nn.Embedding(n_items, sizes.embedding_size, padding_idx=0)
        self.position_embedding = nn.Embedding(sizes.max_length, sizes.embedding_size)
        self.blocks = nn.ModuleList(HSTUBlock(sizes) for _ in range(sizes.n_layers))
        self._init_tables()

    def _init_tables(self) -> None:
        for table, std in (
            (self.item_embedding, 0.02),
            (self.position_embedding, 1 / math.sqrt(self.sizes.embedding_size)),
        ):
            if self.sizes.table_init == "xavier_normal":
                nn.init.xavier_normal_(table.weight)
            else:
                nn.init.trunc_normal_(table.weight, std=std, a=-2 * std, b=2 * std)
        with torch.no_grad():
            self.item_embedding.weight[0].zero_()

    def item_vectors(self) -> Tensor:
        """Return unit vectors of all items, float ``[n_items, d]``.

        The vector of the pad is zero and has no gradient.
        """
        real = torch.ones(self.item_embedding.num_embeddings, 1, device=self.item_embedding.weight.device)
        real[0] = 0
        return unit(self.item_embedding.weight) * real

    def forward(
        self, items: Tensor, lengths: Tensor, times: Tensor | None = None, next_times: Tensor | None = None
    ) -> Encoded:
        """Encode histories, of a longer one only the latest ``max_length`` items.

        Values after the end of a row have no influence.

        Args:
            items: int64 ``[B, W]``, right padded.
            lengths: int64 ``[B]``.
            times: int64 ``[B, W]``, time of each item in seconds, for the time bias. If None, the positions.
            next_times: int64 ``[B]``, time of the query for the item after the history, as in the published code. If
                None, the last item's time.
        """
        layout = PackedLayout.of(lengths, self.sizes.max_length, self.sizes.n_heads)
        ids = items[layout.row, layout.column]
        x = self.item_embedding(ids) * math.sqrt(self.sizes.embedding_size) + self.position_embedding(layout.place)
        x = functional.dropout(x, self.sizes.input_dropout, self.training)
        buckets = self._buckets(layout, lengths, times, next_times) if self.sizes.time_bias else ()
        for block in self.blocks:
            x = block(x, layout, buckets)
        return Encoded(unit(x), layout)

    @staticmethod
    def _buckets(
        layout: PackedLayout, lengths: Tensor, times: Tensor | None, next_times: Tensor | None
    ) -> Sequence[Tensor]:
        if times is None:
            return time_buckets(layout, layout.place, layout.place + 1)
        row, column = layout.row, layout.column
        at = times[row, column]
        ends = column + 1 == lengths[row]
        after = times[row, (column + 1).clamp(max=times.shape[1] - 1)]
        return time_buckets(layout, at, torch.where(ends, at if next_times is None else next_times[row], after))
