"""BM3's losses and propagation as functions of tensors, without RecBole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


class View(NamedTuple):
    """The vectors of one entity of each row, as prediction and as target.

    Attributes:
        online: ``[B, d]``, after the predictor.
        target: ``[B, d]``, after dropout. It has no gradient.
    """

    online: Tensor
    target: Tensor


def bootstrap(online: Tensor, target: Tensor) -> Tensor:
    """Return C(a, b) = 1 - mean cos(a, sg b), ``[B, d]`` twice -> ``[]``."""
    return 1 - torch.cosine_similarity(online, target.detach(), dim=-1).mean()


def bm3_loss(user: View, item: View, modalities: Mapping[str, View], cl_weight: float) -> Tensor:
    r"""Return the loss of BM3 without its regulariser.

    .. math:: C(g(h_u), h_i') + C(g(h_i), h_u') + w \sum_m C(g(f_m), h_i') + C(g(f_m), f_m')

    Source: Zhou et al., WWW 2023, Eq. 9 to 14; github enoche/MMRec, src/models/bm3.py.

    Args:
        user, item: views of each positive pair.
        modalities: views of its item, by name of the modality.
        cl_weight: w.

    Returns:
        ``[]``, a mean over the rows.
    """
    loss = bootstrap(user.online, item.target) + bootstrap(item.online, user.target)
    for view in modalities.values():
        loss = loss + cl_weight * (bootstrap(view.online, item.target) + bootstrap(view.online, view.target))
    return loss


def norm_regulariser(users: Tensor, items: Tensor) -> Tensor:
    """Return (||H_u||_F + ||H_i||_F) / |I|, without pads: ``[U, d]``, ``[I, d]`` -> ``[]``."""
    return (torch.linalg.vector_norm(users) + torch.linalg.vector_norm(items)) / len(items)


def normalised_adjacency(users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> sp.csr_matrix:
    """Return D^-1/2 A D^-1/2 of the bipartite graph, with users first.

    A repeated pair counts once. Like the published code this adds 1e-7 to every degree.

    Args:
        users, items: int64 ``[N]``, the pairs.
    """
    ones = np.ones(len(users), dtype=np.float32)
    bipartite = sp.csr_matrix((ones, (users, items)), shape=(n_users, n_items))
    bipartite.data[:] = 1.0
    graph = sp.bmat([[None, bipartite], [bipartite.T, None]], format="csr", dtype=np.float64)
    scale = sp.diags((np.asarray(graph.sum(axis=1)).ravel() + 1e-7) ** -0.5)
    return (scale @ graph @ scale).tocsr().astype(np.float32)
