"""The registry of models that score by dot products, and how each computes its vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from recbole.data.interaction import Interaction
from recbole.model.general_recommender import BPR, NGCF, SGL, LightGCN
from recbole.model.sequential_recommender import NARM, STAMP, Caser, GRU4Rec, LightSANs, NextItNet, SASRec
from torch import Tensor, nn

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
    """

    queries: Callable[[Any, Interaction], Tensor]
    in_step: Callable[[Any, Interaction], Tensor]
    items: Callable[[Any], Tensor]
    shared: str = "forward"
    positions: Callable[[Any, Interaction], Tensor] | None = None


def _of_forward(*fields: str, last_of: str | None = None) -> QueryEncoder:
    """Return an encoder for RecBole's usual form of a sequential model.

    forward(columns of the interaction) is the query vector, and the item table is the embedding.

    Args:
        fields: names of the model's attributes that name these columns.
        last_of: name of a causal model's module whose output, ``[B, L, d]`` or a list that ends in it, forward() cuts
            to the last position.
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

    return QueryEncoder(
        encode, encode, lambda model: model.item_embedding.weight, positions=None if last_of is None else positions
    )


_HSTU = QueryEncoder(
    queries=lambda model, rows: model.queries(rows),
    in_step=lambda model, rows: model.encode(rows)[0].last(),
    items=lambda model: model.item_vectors(),
    shared="encode",
    positions=lambda model, rows: model.position_vectors(rows),
)
ENCODERS: dict[type, QueryEncoder] = {
    HSTU: _HSTU,
    HSTUGeneral: _HSTU,
    SASRec: _of_forward("ITEM_SEQ", "ITEM_SEQ_LEN", last_of="trm_encoder"),
    GRU4Rec: _of_forward("ITEM_SEQ", "ITEM_SEQ_LEN", last_of="dense"),
    NARM: _of_forward("ITEM_SEQ", "ITEM_SEQ_LEN"),
    LightSANs: _of_forward("ITEM_SEQ", "ITEM_SEQ_LEN"),
    NextItNet: _of_forward("ITEM_SEQ"),
    STAMP: _of_forward("ITEM_SEQ", "ITEM_SEQ_LEN"),
    Caser: _of_forward("USER_ID", "ITEM_SEQ"),
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
    if parent is None or encoder_of(type(model)) is None:
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
