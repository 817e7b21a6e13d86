"""Which models score by dot products of vectors, and how each makes them; a line a model."""

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
    """Attributes in which full_sort_predict keeps propagated tables; calculate_loss clears them, an optimiser's step does not.

    RecBole names them, with state that is no cache, in other_parameter_name: restore_* of the graph models, i_embedding
    of DMF.
    """
    return [
        name
        for name in getattr(model, "other_parameter_name", ())
        if name.startswith("restore_") or name == "i_embedding"
    ]


@singledispatch
def vectors(model: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Tables (user vectors ``[n_users, d]``, item vectors ``[n_items, d]``) whose dot product IS the model's score.

    None where the model has no table of its queries: see :data:`ENCODERS`. One line per model.
    """
    return None


vectors.register(BPR, lambda model: (model.user_embedding.weight, model.item_embedding.weight))
vectors.register(LightGCN, lambda model: model.forward())
vectors.register(NGCF, lambda model: model.forward())
vectors.register(SGL, lambda model: model.forward(model.train_graph))
vectors.register(BM3, lambda model: model.score_vectors())


@dataclass(frozen=True)
class QueryEncoder:
    """How a model whose score is a dot product makes its query vectors, row by row.

    Attributes:
        queries: model, rows -> float ``[B, d]``. in_step: the same for the rows of a training batch, where that has
            another way.
        shared: the method that base loss and ``in_step`` have in common; a training step calls it once.
        items: model -> float ``[n_items, d]``.
        positions: model, rows -> float ``[B, L, d]``, the vectors of all prefixes by a causal model with positions from
            0; or None.
    """

    queries: Callable[[Any, Interaction], Tensor]
    in_step: Callable[[Any, Interaction], Tensor]
    items: Callable[[Any], Tensor]
    shared: str = "forward"
    positions: Callable[[Any, Interaction], Tensor] | None = None


def _of_forward(*fields: str, last_of: str | None = None) -> QueryEncoder:
    """RecBole's usual form: forward(columns of the interaction) is the query vector, the item table is the embedding.

    Args:
        last_of: the module of a causal model of whose output, ``[B, L, d]`` or a list that ends in it, forward() takes
            the last position.
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
"""Models that encode a query when it is asked for. One line per model."""

_KEPT = (
    "forward", "predict", "full_sort_predict", "get_user_embedding", "get_item_embedding", "encode", "queries", "item_vectors",
    "position_vectors", "get_attention_mask", "gather_indexes",
)  # fmt: skip


def _served(kind: type, table: Any) -> Any:
    """What a table holds for a model class, or None.

    A subclass that changes how scores come about (forward, predict, full_sort_predict or a look-up) is not served by
    its parent's line.
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
    """The registered vector function of a model class, or None."""
    found: Callable[[nn.Module], tuple[Tensor, Tensor] | None] | None = _served(kind, vectors.registry)
    return found


def encoder_of(kind: type) -> QueryEncoder | None:
    """The registered encoder of a model class, or None."""
    found: QueryEncoder | None = _served(kind, ENCODERS)
    return found


def softmax_of(model: nn.Module) -> nn.CrossEntropyLoss | None:
    """The module that a model's own loss hands its scores of the whole catalogue, ``[B, n_items]``; None where there is none such.

    RecBole's sequential models call theirs ``loss_fct``. A subclass that changes its loss may hand over something else.
    """
    parent = next((kind for kind in type(model).__mro__ if kind in ENCODERS), None)
    if parent is None or encoder_of(type(model)) is None:
        return None
    if getattr(type(model), "calculate_loss", None) is not getattr(parent, "calculate_loss", None):
        return None
    found = getattr(model, "loss_fct", None)
    return found if type(found) is nn.CrossEntropyLoss else None


def has_vectors(kind: type) -> bool:
    """Is the score of a model class a dot product of vectors that a scorer can hand out?"""
    return vector_function(kind) is not None or encoder_of(kind) is not None


def no_tables(kind: type) -> str:
    """What is said of a model class without a table of its queries."""
    why = ", which encodes histories," if encoder_of(kind) is not None else ""
    return f"{kind.__name__}{why} has no user_embedding and item_embedding with a row per user and item"
