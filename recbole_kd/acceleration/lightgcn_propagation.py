"""Fast LightGCN propagation on a CPU.

RecBole multiplies an uncoalesced COO matrix at every layer. On a CPU scipy's CSR kernel is many times faster at these
sizes. The normalised adjacency is symmetric, so the backward pass is the same product.

The loss of a batch needs the vectors of the batch alone. A wide model computes them by
:mod:`recbole_kd.ops.compiled_propagation`, without a propagated table, its gradient or any layer in memory.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import scipy.sparse as sp
import torch
from recbole.model.general_recommender import LightGCN
from torch import Tensor
from torch.nn.functional import embedding

from recbole_kd.ops.compiled_propagation import Propagation
from recbole_kd.ops.sparse_product import symmetric_product

WIDE = 128
"""Width from which the loss of a batch propagates to the batch's rows alone."""


def accelerate(model: Any) -> None:
    """Replace the propagation of a LightGCN on a CPU by a fast one, in place, and the loss of a wide one.

    Other models and devices stay unchanged. Scores, losses and gradients equal RecBole's up to rounding (tested).
    Subclasses keep their own forward and loss.
    """
    if type(model) is not LightGCN or model.norm_adj_matrix.device.type != "cpu":
        return
    graph = model.norm_adj_matrix.coalesce()
    rows, columns = graph.indices().numpy()
    matrix = sp.csr_matrix((graph.values().numpy(), (rows, columns)), shape=tuple(graph.shape))

    def forward(self: Any) -> tuple[Tensor, Tensor]:
        layer = self.get_ego_embeddings()
        total = layer
        for _ in range(self.n_layers):
            layer = symmetric_product(layer, matrix)
            total = total + layer
        mean = total / (self.n_layers + 1)
        return mean[: self.n_users], mean[self.n_users :]

    model.forward = MethodType(forward, model)  # bound, so that a copy of the model propagates its own vectors
    if model.latent_dim < WIDE or model.n_layers < 1:
        return
    propagation = Propagation(matrix, model.n_layers)

    def calculate_loss(self: Any, interaction: Any) -> Tensor:
        # in a distillation's step forward is replaced by one whose result the KD loss shares
        plain = getattr(self.forward, "__func__", None) is not forward
        loss = None if plain else _loss_of_batch(self, interaction, propagation)
        return LightGCN.calculate_loss(self, interaction) if loss is None else loss

    model.calculate_loss = MethodType(calculate_loss, model)


def _loss_of_batch(model: Any, interaction: Any, propagation: Propagation) -> Tensor | None:
    """Return LightGCN's loss from the vectors of the batch alone, or None if no kernel applies."""
    users, positives, negatives = (interaction[field] for field in (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID))
    nodes = torch.cat([users, positives + model.n_users, negatives + model.n_users])
    rows, at = nodes.unique(return_inverse=True)
    found = propagation.at(model.user_embedding.weight, model.item_embedding.weight, rows)
    if found is None:
        return None
    model.restore_user_e = model.restore_item_e = None  # of an earlier evaluation
    propagated, own = ([embedding(part, table) for part in at.split(len(users))] for table in found)
    scores = [(propagated[0] * items).sum(dim=1) for items in propagated[1:]]
    loss: Tensor = model.mf_loss(*scores) + model.reg_weight * model.reg_loss(*own, require_pow=model.require_pow)
    return loss
