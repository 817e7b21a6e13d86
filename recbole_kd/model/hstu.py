"""HSTU in RecBole, as a sequential recommender and as a general one.

A query of the general recommender is a user with the training history.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_kd.config.schema import MODEL_TYPES, check_values
from recbole_kd.data.histories.user_histories import Histories, padded_histories
from recbole_kd.data.time_order import RAW_ROW, RAW_TIME
from recbole_kd.distributed.batch_shard import BatchShard, shard_of
from recbole_kd.errors import ConfigError
from recbole_kd.model.full_softmax import full_softmax
from recbole_kd.model.hstu_encoder import Encoded, HSTUEncoder, HSTUSizes
from recbole_kd.model.sampled_softmax import UniformNegatives, sampled_softmax

USERS_PER_BLOCK = 512
MOST_ITEMS_OF_FULL_SOFTMAX = 20_000
"""Catalogue up to which ``loss: auto`` is the softmax over all items, whose cost grows with it."""


def check(config: Any) -> None:
    """Refuse HSTU keys that are out of range.

    Raises:
        ConfigError: names the first of them, with the allowed values.
    """
    values = {key: config[key] for key in MODEL_TYPES["HSTU"]}
    check_values({**values, "loss": loss_name(config)}, {}, model="HSTU")


def loss_name(config: Any) -> str:
    """Return the loss; a checkpoint of an earlier version names none and was trained on drawn negatives."""
    return str(config["loss"] or "sampled_softmax")


def loss_for(name: str, n_items: int) -> str:
    """Return the loss that ``auto`` stands for with so many items, the pad among them; others unchanged."""
    if name != "auto":
        return name
    return "full_softmax" if n_items - 1 <= MOST_ITEMS_OF_FULL_SOFTMAX else "sampled_softmax"


def sizes_of(config: Any) -> HSTUSizes:
    """Return the encoder's sizes from a RecBole config."""
    same = ("embedding_size", "n_layers", "n_heads", "attention_size", "linear_size", "input_dropout", "linear_dropout")
    switches = ("position_bias", "time_bias", "table_init")
    return HSTUSizes(max_length=config["MAX_ITEM_LIST_LENGTH"], **{key: config[key] for key in (*same, *switches)})


class _Autoregressive(nn.Module):
    """The common part of both HSTU models: encoder, loss over positions, cosine scores.

    The scores do not use the training temperature.
    """

    encoder: HSTUEncoder
    n_items: int

    def _set_up(self, config: Any) -> None:
        check(config)
        self.encoder = HSTUEncoder(self.n_items, sizes_of(config))
        self.temperature: float = config["temperature"]
        self.n_negatives: int = config["n_negatives"]
        self.negatives: str = config["negatives"]
        self.loss_name = loss_for(loss_name(config), self.n_items)

    def encode(self, interaction: Any) -> tuple[Encoded, Tensor]:
        """Encode the histories of a training batch, once for all losses.

        Returns:
            The encoding, whose ``last()`` holds a vector for each row, and the next item of each position: int64
            ``[P]``, 0 if there is none.
        """
        raise NotImplementedError

    def terms_of_rows(self, interaction: Any) -> Tensor:
        """Return how many positions of each row have a next item, int64 ``[B]``.

        The loss is a mean over these positions.
        """
        raise NotImplementedError

    def loss_of(self, encoded: Encoded, following: Tensor, mine: Tensor | None = None) -> Tensor:
        """Return the softmax loss, a mean over positions with a next item: float ``[]``.

        Args:
            encoded, following: see :meth:`encode`.
            mine: bool, marks the positions of this process among all positions with a next item in the batch. None if
                all are here.
        """
        known = following > 0
        if self.loss_name == "full_softmax":
            return full_softmax(encoded.positions[known], self.item_vectors(), following[known], self.temperature)
        draw = UniformNegatives(self.n_items, self.n_negatives, following.device, mine)
        negatives = draw if self.negatives == "own" else draw.top()
        return sampled_softmax(
            encoded.positions[known], self.item_vectors(), following[known], negatives, self.temperature
        )

    def calculate_loss(self, interaction: Any) -> Tensor:
        shard = shard_of(interaction)
        return self.loss_of(*self.encode(interaction), None if shard is None else self._positions_of(shard))

    def _positions_of(self, shard: BatchShard) -> Tensor:
        """Return which positions with a next item of the whole batch are in this shard.

        bool ``[P]``, in the encoder's order.
        """
        terms = self.terms_of_rows(shard.whole)
        order = terms.argsort(descending=True, stable=True)  # a layout starts with the longest history
        return shard.mine[order].repeat_interleave(terms[order])

    def item_vectors(self) -> Tensor:
        """Return unit item vectors, float ``[n_items, d]``, differentiable; zero for the pad."""
        return self.encoder.item_vectors()

    def queries(self, interaction: Any) -> Tensor:
        """Return unit vectors of the rows, float ``[B, d]``."""
        raise NotImplementedError

    def predict(self, interaction: Any) -> Tensor:
        items = self.item_vectors()[interaction[self.ITEM_ID]]
        return (self.queries(interaction) * items).sum(1)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        return self.queries(interaction) @ self.item_vectors().T


class HSTU(_Autoregressive, SequentialRecommender):
    r"""Hierarchical sequential transduction units as a sequential recommender.

    It is trained autoregressively: one row per user, every position a target, a softmax over cosines with a
    temperature, of all items or of drawn negatives. A query is a row's history. With the time bias the last position
    is queried at the time of the row's target, as in the published code.

    Source: Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
    Recommendations", ICML 2024.
    """

    input_type = InputType.POINTWISE
    trains_by_user = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.times_field = RAW_TIME + config["LIST_SUFFIX"]
        # Prepared files (benchmark_filename) and foreign data sets have no whole seconds. The positions then replace
        # the times.
        self.has_times = bool(getattr(dataset, "has_times", False)) and self.times_field in dataset.inter_feat
        self._set_up(config)

    def forward(
        self, item_seq: Tensor, item_seq_len: Tensor, times: Tensor | None = None, asked: Tensor | None = None
    ) -> Tensor:
        """Return user vectors, float ``[B, d]``.

        Args:
            item_seq: int64 ``[B, L]``, right padded.
            item_seq_len: int64 ``[B]``.
            times: int64 ``[B, L]``, in seconds.
            asked: int64 ``[B]``, time of the query.
        """
        return self.encoder(item_seq, item_seq_len, times, asked).last()

    def _history(self, interaction: Any) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        times = (interaction[self.times_field], interaction[RAW_TIME]) if self.has_times else (None, None)
        return interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], *times

    def terms_of_rows(self, interaction: Any) -> Tensor:
        lengths: Tensor = interaction[self.ITEM_SEQ_LEN]
        return lengths

    def encode(self, interaction: Any) -> tuple[Encoded, Tensor]:
        history = self._history(interaction)
        encoded = self.encoder(*history)
        items = torch.cat([history[0], history[0].new_zeros(len(history[0]), 1)], dim=1)
        items = items.scatter(1, history[1].unsqueeze(1), interaction[self.POS_ITEM_ID].unsqueeze(1))
        return encoded, items[encoded.layout.row, encoded.layout.column + 1]

    def queries(self, interaction: Any) -> Tensor:
        return self.forward(*self._history(interaction))

    def position_vectors(self, interaction: Any) -> Tensor:
        """Return unit vectors of all positions of the rows, float ``[B, L, d]``.

        Each encodes the history up to its position, queried at the time of the next item.
        """
        return self.encoder(*self._history(interaction)).padded()


class HSTUGeneral(_Autoregressive, GeneralRecommender):
    """HSTU as a general recommender, whose query is a user with the training history.

    It works on any split and with the masks of general models. A training batch is a batch of users. Every item of a
    history except the first is a target. The histories belong to the data, so they are buffers that no checkpoint
    contains.
    """

    input_type = InputType.POINTWISE
    trains_by_user = True
    property_file = "HSTU"

    n_users: int
    starts: Tensor
    items: Tensor
    times: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.has_times = bool(getattr(dataset, "has_times", False))
        self._set_up(config)
        histories = self._histories(dataset, config["MAX_ITEM_LIST_LENGTH"])
        for name in ("starts", "items", "times"):
            self.register_buffer(name, getattr(histories, name), persistent=False)

    def _histories(self, dataset: Any, max_length: int) -> Histories:
        interactions = dataset.inter_feat
        if RAW_TIME not in interactions or RAW_ROW not in interactions:
            raise ConfigError(
                f"HSTUGeneral needs the order of each user's items, which a {type(dataset).__name__} does not keep "
                "(fix: make the data set with RecBole's create_dataset from a config with model=HSTUGeneral)"
            )
        users, items, times, rows = (
            np.asarray(interactions[field]) for field in (self.USER_ID, self.ITEM_ID, RAW_TIME, RAW_ROW)
        )
        return Histories.of(users, items, times, rows, n_users=self.n_users, max_length=max_length)

    def encode_users(self, users: Tensor) -> tuple[Encoded, Tensor]:
        """Encode the training histories of int64 ``[B]`` users; see :meth:`encode` for the result.

        The time of the user's next visit is unknown, so the last position is queried at the last item's own time.
        """
        items, lengths, times = padded_histories(self.starts, self.items, self.times, users)
        encoded = self.encoder(items, lengths, times if self.has_times else None)
        column = encoded.layout.column + 1
        following = items[encoded.layout.row, column.clamp(max=items.shape[1] - 1)]
        return encoded, following.masked_fill(column >= lengths[encoded.layout.row], 0)

    def terms_of_rows(self, interaction: Any) -> Tensor:
        users = interaction[self.USER_ID]
        return (self.starts[users + 1] - self.starts[users] - 1).clamp(min=0)

    def encode(self, interaction: Any) -> tuple[Encoded, Tensor]:
        return self.encode_users(interaction[self.USER_ID])

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return unit vectors of int64 ``[B]`` users, float ``[B, d]``; zero for an empty history."""
        return self.encode_users(users)[0].last()

    def queries(self, interaction: Any) -> Tensor:
        return self.user_vectors(interaction[self.USER_ID])

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return user vectors ``[n_users, d]`` and item vectors ``[n_items, d]``, float.

        Their dot products are the scores.
        """
        users = torch.arange(self.n_users, device=self.starts.device)
        return torch.cat([self.user_vectors(block) for block in users.split(USERS_PER_BLOCK)]), self.item_vectors()
