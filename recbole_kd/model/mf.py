"""MF: matrix factorisation with the BPR loss, as in the KD literature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from recbole.model.general_recommender.bpr import BPR
from torch import Tensor, nn

from recbole_kd.errors import ConfigError


def _negatives(config: Any) -> Mapping[str, Any]:
    """Return how negatives are drawn, without which no pair can be compared (ConfigError)."""
    found = config["train_neg_sample_args"]
    if not isinstance(found, Mapping) or found.get("distribution") in (None, "none"):
        raise ConfigError(
            "train_neg_sample_args is empty and MF compares each item with one that is drawn: leave the key out, or "
            "set {distribution: uniform, sample_num: 1}"
        )
    return found


class MF(BPR):
    r"""Matrix factorisation, :math:`r_{ui} = p_u \cdot q_i`, trained with BPR.

    This is RecBole's BPR with two differences, both from the published RCE-KD code. Tables are initialised from N(0,
    ``init_std``\ :sup:`2`) instead of Xavier-normal. The loss is a sum over the batch's rows (``loss_reduction: sum``,
    with a mean over the negatives of a row) instead of a mean. Adam is invariant to the factor between them, but its
    coupled weight decay is not. A decay published for sum losses is only valid with a sum.

    Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.loss_reduction: str = config["loss_reduction"] or "sum"
        self.init_std: float = config["init_std"]
        self.n_negatives: int = max(1, int(_negatives(config)["sample_num"]))
        for table in (self.user_embedding, self.item_embedding):
            nn.init.normal_(table.weight, std=self.init_std)

    def calculate_loss(self, interaction: Any) -> Tensor:
        user, positive = self.forward(interaction[self.USER_ID], interaction[self.ITEM_ID])
        negative = self.get_item_embedding(interaction[self.NEG_ITEM_ID])
        margin = (user * positive).sum(1) - (user * negative).sum(1)
        loss = -nn.functional.logsigmoid(margin)
        return torch.mean(loss) if self.loss_reduction == "mean" else loss.sum() / self.n_negatives
