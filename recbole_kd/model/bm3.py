"""BM3: bootstrapped multi-modal recommendation, a RecBole general model."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_kd.data.item_features.aligned import ItemFeatures, item_blocks
from recbole_kd.data.item_features.configured import load_item_features
from recbole_kd.model.bm3_loss import View, bm3_loss, norm_regulariser, normalised_adjacency
from recbole_kd.ops.sparse_product import symmetric_product


class BM3(GeneralRecommender):
    r"""BM3: LightGCN on ids, aligned with item modalities without negatives.

    Zhou et al., WWW 2023. Users and items are propagated as in LightGCN, with the mean of all layers, and an item adds
    its
    own id vector: :math:`h_u, h_i = \bar H_u, \bar H_i + E_i`. Modality m of an item is :math:`f_m = W_m x_m + b_m`.
    One linear predictor g serves all vectors. The loss is that of :func:`recbole_kd.model.bm3_loss.bm3_loss` plus
    ``reg_weight`` times the Frobenius norms of :math:`\bar H_u` and :math:`h_i` over the number of items. The score is
    :math:`g(h_u) \cdot g(h_i)`.

    The source is github enoche/MMRec (src/models/bm3.py). With the same weights the losses, the propagation and the
    scores are equal (tested). There are three differences: any number of modalities is allowed; features are projected
    only for the items of the batch, each distinct item once, so there is one dropout mask per item as there; RecBole's
    pad user and pad item are left out of the norms.

    Property keys: ``n_layers``, ``dropout_prob`` (of the targets), ``reg_weight``, ``cl_weight`` and
    ``freeze_features``. Frozen features stay unchanged on disk and are read batch by batch. Otherwise they are the
    start of trainable tables, as published. For the feature files see
    :func:`recbole_kd.data.item_features.configured.load_item_features`.
    """

    input_type = InputType.POINTWISE
    reads_item_features = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.embedding_dim: int = config["embedding_size"]
        self.n_layers: int = config["n_layers"]
        self.reg_weight: float = config["reg_weight"]
        self.cl_weight: float = config["cl_weight"]
        self.dropout: float = config["dropout_prob"]
        pairs = dataset.inter_matrix(form="coo")
        self._pairs = sp.csr_matrix(
            (np.ones(pairs.nnz, dtype=np.float32), (pairs.row, pairs.col)), shape=(self.n_users, self.n_items)
        )
        self._pairs.data[:] = 1  # a repeated pair counts once
        self._graph = normalised_adjacency(pairs.row, pairs.col, self.n_users, self.n_items)
        self._graph_on_device: Tensor | None = None
        self.user_embedding = nn.Embedding(self.n_users, self.embedding_dim)
        self.item_embedding = nn.Embedding(self.n_items, self.embedding_dim)
        self.predictor = nn.Linear(self.embedding_dim, self.embedding_dim)
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)
        nn.init.xavier_normal_(self.predictor.weight)
        given = load_item_features(config, dataset)
        self.modalities = list(given)
        self._widths = {name: features.width for name, features in given.items()}
        # Only of frozen modalities, because the pages of a mapped file count as memory too.
        self._features: dict[str, ItemFeatures] = {}
        self.tables = nn.ParameterDict()
        self.projections = nn.ModuleDict()
        for name, features in given.items():
            projection = nn.Linear(features.width, self.embedding_dim)
            nn.init.xavier_normal_(projection.weight)
            self.projections[f"of_{name}"] = projection
            if config["freeze_features"]:
                self._features[name] = features
            else:
                self.tables[f"of_{name}"] = nn.Parameter(features.table())
        self.restore_user_e: Tensor | None = None
        self.restore_item_e: Tensor | None = None
        self.other_parameter_name = ["restore_user_e", "restore_item_e"]

    # -- encoding -----------------------------------------------------------------------------------------------------

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the vectors before the predictor: users ``[n_users, d]``, items ``[n_items, d]``."""
        layer = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        total = layer
        for _ in range(self.n_layers):
            layer = self._propagate(layer)
            total = total + layer
        mean = total / (self.n_layers + 1)
        return mean[: self.n_users], mean[self.n_users :] + self.item_embedding.weight

    def _propagate(self, layer: Tensor) -> Tensor:
        if layer.device.type == "cpu":
            return symmetric_product(layer, self._graph)
        if self._graph_on_device is None or self._graph_on_device.device != layer.device:
            graph = self._graph.tocoo()
            places = torch.from_numpy(np.stack([graph.row, graph.col]).astype(np.int64))
            self._graph_on_device = (
                torch.sparse_coo_tensor(places, torch.from_numpy(graph.data), graph.shape).coalesce().to(layer.device)
            )
        return torch.sparse.mm(self._graph_on_device, layer)

    def project(self, modality: str, items: Tensor) -> Tensor:
        """Return f_m of items: int64 ``[B]`` -> ``[B, d]``."""
        name = f"of_{modality}"
        raw = self.tables[name][items] if name in self.tables else self._features[modality].take(items)
        projected: Tensor = self.projections[name](raw)
        return projected

    def score_vectors(self) -> tuple[Tensor, Tensor]:
        """Return the vectors whose dot product is the score: ``[n_users, d]``, ``[n_items, d]``."""
        users, items = self.forward()
        return self.predictor(users), self.predictor(items)

    @torch.no_grad()
    def modality_vectors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return per modality the vectors whose dot product is the modality's own score.

        The vector of an item is g(f_m). The vector of a user is g of the mean of f_m over the user's training items.
        BM3 has no such score. This is our definition, for methods that distil by modality.
        """
        pairs = sp.diags(1.0 / np.maximum(np.diff(self._pairs.indptr), 1)) @ self._pairs
        vectors = {}
        for name in self.modalities:
            blocks = item_blocks(self.n_items, self._widths[name])
            items = torch.cat([self.project(name, block.to(self.predictor.weight.device)) for block in blocks])
            users = torch.from_numpy((pairs @ items.cpu().numpy()).astype(np.float32)).to(items.device)
            vectors[name] = (self.predictor(users), self.predictor(items))
        return vectors

    # -- loss ---------------------------------------------------------------------------------------------------------

    def calculate_loss(self, interaction: Any) -> Tensor:
        self.restore_user_e, self.restore_item_e = None, None
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        all_users, all_items = self.forward()
        user = View(self.predictor(all_users[users]), self._dropped(all_users)[users])
        item = View(self.predictor(all_items[items]), self._dropped(all_items)[items])
        distinct, place = torch.unique(items, return_inverse=True)
        modalities = {}
        for name in self.modalities:
            projected = self.project(name, distinct)
            modalities[name] = View(self.predictor(projected)[place], self._dropped(projected)[place])
        norms = norm_regulariser(all_users[1:], all_items[1:])
        return bm3_loss(user, item, modalities, self.cl_weight) + self.reg_weight * norms

    def _dropped(self, vectors: Tensor) -> Tensor:
        """Return vectors as targets: without gradient, and with dropout in training mode."""
        return nn.functional.dropout(vectors.detach(), self.dropout, self.training)

    # -- scores -------------------------------------------------------------------------------------------------------

    def predict(self, interaction: Any) -> Tensor:
        users, items = self.score_vectors()
        return (users[interaction[self.USER_ID]] * items[interaction[self.ITEM_ID]]).sum(dim=1)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        if self.restore_user_e is None or self.restore_item_e is None:
            self.restore_user_e, self.restore_item_e = self.score_vectors()
        return (self.restore_user_e[interaction[self.USER_ID]] @ self.restore_item_e.T).view(-1)
