"""The registry of models that score by dot products, and how each computes its vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import (
    BPR,
    DGCF,
    ENMF,
    LINE,
    NCL,
    NGCF,
    SGL,
    LightGCN,
    NCEPLRec,
    SimpleX,
    SpectralCF,
)
from recbole.model.sequential_recommender import (
    CORE,
    FDSA,
    FOSSIL,
    FPMC,
    GCSAN,
    HGN,
    HRM,
    NARM,
    NPE,
    SHAN,
    SINE,
    SRGNN,
    STAMP,
    BERT4Rec,
    Caser,
    FEARec,
    GRU4Rec,
    GRU4RecF,
    LightSANs,
    NextItNet,
    S3Rec,
    SASRec,
    SASRecF,
)
from torch import Tensor, nn
from torch.nn.functional import normalize

from recbole_kd.model.bm3 import BM3
from recbole_kd.model.hstu import HSTU, HSTUGeneral


def cached_names(model: nn.Module) -> list[str]:
    """Return the attributes in which full_sort_predict caches propagated tables.

    calculate_loss clears them, an optimiser's step does not. RecBole names them in other_parameter_name, together with
    state that is not a cache: restore_* of the graph models, i_embedding of DMF.
    """
    return [
        name
        for name in getattr(model, "other_parameter_name", ())
        if name.startswith("restore_") or name == "i_embedding"
    ]


@singledispatch
def vectors(model: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Return the tables whose dot product IS the model's score.

    Returns:
        user vectors ``[n_users, d]`` and item vectors ``[n_items, d]``. None if the model has no table of its queries;
        see :data:`ENCODERS`.
    """
    return None


vectors.register(BPR, lambda model: (model.user_embedding.weight, model.item_embedding.weight))
vectors.register(LightGCN, lambda model: model.forward())
vectors.register(NGCF, lambda model: model.forward())
vectors.register(SGL, lambda model: model.forward(model.train_graph))
vectors.register(DGCF, lambda model: model.forward())
vectors.register(SpectralCF, lambda model: model.forward())
vectors.register(NCL, lambda model: model.forward()[:2])
vectors.register(LINE, lambda model: (model.user_embedding.weight, model.item_embedding.weight))
vectors.register(ENMF, lambda model: (model.user_embedding.weight * model.H_i.weight, model.item_embedding.weight))
vectors.register(NCEPLRec, lambda model: (model.user_embeddings.float(), model.item_embeddings.T.float()))
vectors.register(BM3, lambda model: model.score_vectors())


@dataclass(frozen=True)
class QueryEncoder:
    """The functions that compute a dot-product model's query vectors row by row.

    Attributes:
        queries: model, rows -> float ``[B, d]``.
        in_step: the same for the rows of a training batch, which may be computed differently.
        items: model -> float ``[n_items, d]``.
        shared: the method that base loss and ``in_step`` share. A training step calls it once.
        positions: model, rows -> float ``[B, L, d]``, the vectors of all prefixes from a causal model with positions
            from 0; or None.
        softmax: whether the model's own cross-entropy takes these scores of the whole catalogue.
    """

    queries: Callable[[Any, Interaction], Tensor]
    in_step: Callable[[Any, Interaction], Tensor]
    items: Callable[[Any], Tensor]
    shared: str = "forward"
    positions: Callable[[Any, Interaction], Tensor] | None = None
    softmax: bool = False


def _of_forward(
    *fields: str,
    last_of: str | None = None,
    items: Callable[[Any], Tensor] = lambda model: model.item_embedding.weight,
    softmax: bool = False,
) -> QueryEncoder:
    """Return an encoder for RecBole's usual form of a sequential model.

    forward(columns of the interaction) is the query vector, and the item table is the embedding.

    Args:
        fields: names of the model's attributes that name these columns.
        last_of: name of a causal model's module whose output, ``[B, L, d]`` or a list that ends in it, forward() cuts
            to the last position.
        items: model -> item vectors, float ``[n_items, d]``.
        softmax: as in :class:`QueryEncoder`.
    """

    def encode(model: Any, rows: Interaction) -> Tensor:
        vectors: Tensor = model.forward(*(rows[getattr(model, field)] for field in fields))
        return vectors

    def positions(model: Any, rows: Interaction) -> Tensor:
        kept: list[Any] = []
        handle = getattr(model, str(last_of)).register_forward_hook(lambda module, given, out: kept.append(out))
        try:
            encode(model, rows)
        finally:
            handle.remove()
        found: Tensor = kept[0][-1] if isinstance(kept[0], list) else kept[0]
        return found

    return QueryEncoder(encode, encode, items, positions=None if last_of is None else positions, softmax=softmax)


def _of(queries: Callable[[Any, Interaction], Tensor], items: Callable[[Any], Tensor]) -> QueryEncoder:
    """Return an encoder from two functions, for the query vectors and for the items.

    The query vectors are the same in and outside of a training step.
    """
    return QueryEncoder(queries, queries, items)


def _with_one(vectors: Tensor) -> Tensor:
    """Append a column of ones, for the items' bias."""
    return torch.cat([vectors, vectors.new_ones(len(vectors), 1)], dim=1)


def _simplex_queries(model: Any, rows: Interaction) -> Tensor:
    users = rows[model.USER_ID]
    history = model.item_emb(model.history_item_id[users])
    found = model.get_UI_aggregation(model.user_emb(users), history, model.history_item_len[users])
    return normalize(found, dim=1)


def _fpmc_queries(model: Any, rows: Interaction) -> Tensor:
    last = rows[model.ITEM_SEQ].gather(1, rows[model.ITEM_SEQ_LEN].unsqueeze(1) - 1).squeeze(1)
    return torch.cat([model.UI_emb(rows[model.USER_ID]), model.LI_emb(last)], dim=1)


def _bert4rec_queries(model: Any, rows: Interaction) -> Tensor:
    lengths = rows[model.ITEM_SEQ_LEN]
    found = model.forward(model.reconstruct_test_data(rows[model.ITEM_SEQ], lengths))
    return _with_one(model.gather_indexes(found, lengths - 1))


def _s3rec_queries(model: Any, rows: Interaction) -> Tensor:
    found = model.forward(rows[model.ITEM_SEQ], bidirectional=False)
    vectors: Tensor = model.gather_indexes(found, rows[model.ITEM_SEQ_LEN] - 1)
    return vectors


_HSTU = QueryEncoder(
    queries=lambda model, rows: model.queries(rows),
    in_step=lambda model, rows: model.encode(rows)[0].last(),
    items=lambda model: model.item_vectors(),
    shared="encode",
    positions=lambda model, rows: model.position_vectors(rows),
    softmax=True,
)
ENCODERS: dict[type, QueryEncoder] = {
    HSTU: _HSTU,
    HSTUGeneral: _HSTU,
    SASRec: _of_forward("ITEM_SEQ", "ITEM_SEQ_LEN", last_of="trm_encoder", softmax=True),
    GRU4Rec: _of_forward("ITEM_SEQ", "ITEM_SEQ_LEN", last_of="dense", softmax=True),
    NARM: _of_forward("ITEM_SEQ", "ITEM_SEQ_LEN", softmax=True),
    LightSANs: _of_forward("ITEM_SEQ", "ITEM_SEQ_LEN", softmax=True),
    NextItNet: _of_forward("ITEM_SEQ", softmax=True),
    STAMP: _of_forward("ITEM_SEQ", "ITEM_SEQ_LEN", softmax=True),
    Caser: _of_forward("USER_ID", "ITEM_SEQ", softmax=True),
    **{kind: _of_forward("ITEM_SEQ", "ITEM_SEQ_LEN") for kind in (FDSA, FEARec, GCSAN, GRU4RecF, SASRecF, SINE, SRGNN)},
    FOSSIL: _of_forward("ITEM_SEQ", "ITEM_SEQ_LEN", "USER_ID"),
    HGN: _of_forward("ITEM_SEQ", "USER_ID", items=lambda model: model.item_embedding_for_prediction.weight),
    HRM: _of_forward("ITEM_SEQ", "USER_ID", "ITEM_SEQ_LEN"),
    NPE: _of_forward("ITEM_SEQ", "USER_ID", items=lambda model: model.item_embedding.weight.relu()),
    SHAN: _of_forward("ITEM_SEQ", "USER_ID"),
    CORE: _of(
        lambda model, rows: model.forward(rows[model.ITEM_SEQ]) / model.temperature,
        lambda model: normalize(model.item_embedding.weight, dim=-1),
    ),
    SimpleX: _of(_simplex_queries, lambda model: normalize(model.item_emb.weight, dim=1)),
    FPMC: _of(_fpmc_queries, lambda model: torch.cat([model.IU_emb.weight, model.IL_emb.weight], dim=1)),
    BERT4Rec: _of(
        _bert4rec_queries,
        lambda model: torch.cat([model.item_embedding.weight[: model.n_items], model.output_bias.unsqueeze(1)], dim=1),
    ),
    S3Rec: _of(_s3rec_queries, lambda model: model.item_embedding.weight[: model.n_items - 1]),
}
"""Models that encode a query on request, one entry per model."""

_KEPT = (
    "forward", "predict", "full_sort_predict", "get_user_embedding", "get_item_embedding", "encode", "queries",
    "item_vectors", "position_vectors", "get_attention_mask", "gather_indexes",
)  # fmt: skip


def _served(kind: type, table: Any) -> Any:
    """Return the table's entry for a model class, or None.

    A subclass that changes how scores are computed (forward, predict, full_sort_predict or a look-up) does not inherit
    the entry of its parent.
    """
    for parent in kind.__mro__:
        if parent in table and parent is not object:
            return (
                table[parent]
                if all(getattr(kind, name, None) is getattr(parent, name, None) for name in _KEPT)
                else None
            )
    return None


def vector_function(kind: type) -> Callable[[nn.Module], tuple[Tensor, Tensor] | None] | None:
    """Return the registered vector function of a model class, or None."""
    found: Callable[[nn.Module], tuple[Tensor, Tensor] | None] | None = _served(kind, vectors.registry)
    return found


def encoder_of(kind: type) -> QueryEncoder | None:
    """Return the registered encoder of a model class, or None."""
    found: QueryEncoder | None = _served(kind, ENCODERS)
    return found


def softmax_of(model: nn.Module) -> nn.CrossEntropyLoss | None:
    """Return the softmax loss module of a model's catalogue scores ``[B, n_items]``, or None.

    RecBole's sequential models call theirs ``loss_fct``. A subclass that changes its loss may pass something else to
    it, so it gets None.
    """
    parent = next((kind for kind in type(model).__mro__ if kind in ENCODERS), None)
    encoder = encoder_of(type(model))
    if parent is None or encoder is None or not encoder.softmax:
        return None
    if getattr(type(model), "calculate_loss", None) is not getattr(parent, "calculate_loss", None):
        return None
    found = getattr(model, "loss_fct", None)
    return found if type(found) is nn.CrossEntropyLoss else None


def has_vectors(kind: type) -> bool:
    """Return whether a model class scores by dot products of vectors that a scorer can return."""
    return vector_function(kind) is not None or encoder_of(kind) is not None


def no_tables(kind: type) -> str:
    """Return the phrase of an error message about a model class without a query table."""
    why = ", which encodes histories," if encoder_of(kind) is not None else ""
    return f"{kind.__name__}{why} has no user_embedding and item_embedding with a row per user and item"
