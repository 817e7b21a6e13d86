"""A RecBole model class that a user could have written."""

from __future__ import annotations

from typing import Any

from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.loss import BPRLoss
from recbole.utils import InputType
from torch import Tensor, nn


class OwnModel(GeneralRecommender):
    """Matrix factorisation under other names, with a key of its own."""

    input_type = InputType.PAIRWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.scale = float(config["own_scale"] or 1.0)
        self.people = nn.Embedding(self.n_users, config["embedding_size"])
        self.things = nn.Embedding(self.n_items, config["embedding_size"])

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        user, liked, other = (interaction[name] for name in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        scores = [self.scale * (self.people(user) * self.things(item)).sum(dim=1) for item in (liked, other)]
        loss: Tensor = BPRLoss()(*scores)
        return loss

    def predict(self, interaction: Interaction) -> Tensor:
        return self.scale * (self.people(interaction[self.USER_ID]) * self.things(interaction[self.ITEM_ID])).sum(dim=1)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        return self.scale * (self.people(interaction[self.USER_ID]) @ self.things.weight.T).view(-1)
