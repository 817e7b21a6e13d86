"""Fast LightGCN propagation on a CPU.

RecBole multiplies an uncoalesced COO matrix at every layer. On a CPU scipy's CSR kernel is many times faster at these
sizes. The normalised adjacency is symmetric, so the backward pass is the same product.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import scipy.sparse as sp
from recbole.model.general_recommender import LightGCN
from torch import Tensor

from recbole_kd.ops.sparse_product import symmetric_product


def accelerate(model: Any) -> None:
    """Replace the propagation of a LightGCN on a CPU by a fast one, in place.

    Other models and devices stay unchanged. Scores, losses and gradients equal RecBole's up to rounding (tested).
    Subclasses keep their own forward.
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
