"""Scorer: any RecBole model, scored at chosen items.

A **query** is one row for which a model ranks the whole catalogue: for a general model, a user (its RecBole id).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, singledispatch

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.general_recommender import BPR, NGCF, SGL, LightGCN
from torch import Tensor, nn

from recbole_kd.errors import ConfigError
from recbole_kd.gather import gathered_dot
from recbole_kd.model.bm3 import BM3
from recbole_kd.ragged import Ragged
from recbole_kd.topk import DotProducts, top_k_in_blocks

PAIRS_PER_CALL = 2**18
"""How many (query, item) rows a model without full_sort_predict scores in one predict call."""


def cached_names(model: nn.Module) -> list[str]:
    """Attributes in which full_sort_predict keeps propagated tables; calculate_loss clears them, an optimiser's step does not.

    RecBole names them, with state that is no cache, in other_parameter_name: restore_* of the graph models, i_embedding of DMF.
    """
    return [name for name in getattr(model, "other_parameter_name", ()) if name.startswith("restore_") or name == "i_embedding"]


@singledispatch
def vectors(model: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Tables (user vectors ``[n_users, d]``, item vectors ``[n_items, d]``) whose dot product IS the model's score.

    None where the score is no dot product: the scorer then asks the model itself. One line per model.
    """
    return None


vectors.register(BPR, lambda model: (model.user_embedding.weight, model.item_embedding.weight))
vectors.register(LightGCN, lambda model: model.forward())
vectors.register(NGCF, lambda model: model.forward())
vectors.register(SGL, lambda model: model.forward(model.train_graph))
vectors.register(BM3, lambda model: model.score_vectors())


def vector_function(kind: type) -> Callable[[nn.Module], tuple[Tensor, Tensor] | None] | None:
    """The registered vector function of a model class, or None.

    A subclass that changes how scores come about (forward, predict, full_sort_predict or a look-up) is not served by its parent's line.
    """
    for parent in kind.__mro__:
        if parent in vectors.registry and parent is not object:
            names = ("forward", "predict", "full_sort_predict", "get_user_embedding", "get_item_embedding")
            same = all(getattr(kind, name, None) is getattr(parent, name, None) for name in names)
            return vectors.registry[parent] if same else None
    return None


class Scorer:
    """Scores of one general model.

    Args:
        model: a RecBole general recommender.

    Raises:
        ConfigError: the model is not a general recommender.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, GeneralRecommender):
            raise ConfigError(f"{type(model).__name__} is not a general recommender: recbole_kd scores RecBole's general models only")
        self.model = model
        self.n_queries: int = model.n_users
        self.n_items: int = model.n_items
        encode = vector_function(type(model))
        self._encode = None if encode is None else partial(encode, model)
        self._tables: tuple[Tensor, Tensor] | None = None
        self._sharing = False
        self._is_frozen = False
        self.spread: Callable[..., tuple[Tensor, Tensor]] | None = None
        """Shares the ranking of many queries out over processes, see :meth:`recbole_kd.parallel.Ranks.spread`."""

    def __reduce__(self) -> tuple[type, tuple[nn.Module]]:
        return type(self), (self.model,)

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def has_vectors(self) -> bool:
        """Is the score a dot product of vectors this scorer can hand out?"""
        return self._encode is not None

    # -- one encoding per training step ---------------------------------------------------------------------------

    @contextmanager
    def step(self) -> Iterator[None]:
        """Within it the model's propagation runs once: the base loss and every KD term share it and its dropout mask.

        Graph models call ``self.forward(...)`` in calculate_loss; for the length of the step that call is remembered.
        """
        memo: dict[tuple[int, ...], tuple[tuple[object, ...], object]] = {}
        own = self.model.__dict__.get("forward")
        plain = self.model.forward
        propagates = self.has_vectors and not isinstance(self.model, BPR)

        def remembered(*args: object) -> object:
            if self._is_frozen:
                return plain(*args)
            key = tuple(id(a) for a in args)
            if key not in memo:
                memo[key] = args, plain(*args)  # the arguments are kept: the id of a dead object is given away again
            return memo[key][1]

        if propagates:
            self.model.forward = remembered
        self._sharing = True
        try:
            yield
        finally:
            if propagates:
                del self.model.forward
                if own is not None:
                    self.model.forward = own
            self._sharing, self._tables = False, None

    def tables(self) -> tuple[Tensor, Tensor]:
        """(query vectors ``[n_queries, d]``, item vectors ``[n_items, d]``), differentiable.

        Raises:
            ConfigError: the model's score is no dot product.
        """
        if self._encode is None:
            raise ConfigError(f"{type(self.model).__name__} has no vectors whose dot product is its score")
        if self._tables is not None:
            return self._tables
        tables = self._encode()
        assert tables is not None
        if self._sharing:
            self._tables = tables
        return tables

    def ego_tables(self) -> tuple[Tensor, Tensor]:
        """The model's own embedding tables, before any propagation: (query ``[n_queries, d]``, item ``[n_items, d]``), differentiable.

        Raises:
            ConfigError: the model keeps none under RecBole's usual names.
        """
        tables = [getattr(self.model, name, None) for name in ("user_embedding", "item_embedding")]
        query, item = (table.weight if isinstance(table, nn.Embedding) else None for table in tables)
        if query is None or item is None or (len(query), len(item)) != (self.n_queries, self.n_items):
            raise ConfigError(f"{type(self.model).__name__} has no user_embedding and item_embedding tables with a row per user and item")
        return query, item

    # -- scores -----------------------------------------------------------------------------------------------------

    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        """Scores of each query at its own items: int64 ``[B]``, int64 ``[B, K]`` -> float ``[B, K]``, differentiable."""
        if self.has_vectors:
            query_table, item_table = self.tables()
            return gathered_dot(query_table[queries], item_table, items)
        if self._ranks_whole_catalogue():
            return self._full_by_model(queries).gather(1, items)
        rows = queries.repeat_interleave(items.shape[1])
        return self._predict(rows, items.reshape(-1)).view_as(items)

    def full(self, queries: Tensor) -> Tensor:
        """Scores of each query at every item, pad item included: int64 ``[B]`` -> float ``[B, n_items]``, differentiable."""
        if self.has_vectors:
            query_table, item_table = self.tables()
            return query_table[queries] @ item_table.T
        if self._ranks_whole_catalogue():
            return self._full_by_model(queries)
        every = torch.arange(self.n_items, device=queries.device)
        step = max(1, PAIRS_PER_CALL // self.n_items)
        rows = [self._predict(q.repeat_interleave(self.n_items), every.repeat(len(q))).view(len(q), -1) for q in queries.split(step)]
        return torch.cat(rows)

    @torch.no_grad()
    def top_k(self, queries: Tensor, k: int, exclude: Ragged | None = None) -> tuple[Tensor, Tensor]:
        """Each query's k best items, best first, ties by id: ids int64 ``[Q, k]`` and scores float ``[Q, k]``.

        Evaluation mode, no gradient, in blocks. See :func:`recbole_kd.topk.top_k_in_blocks` for short rows.
        """
        with self.frozen():
            full = DotProducts(*self.tables()) if self.has_vectors else self.full
            rank = partial(top_k_in_blocks, full)
            return rank(queries, self.n_items, k, exclude) if self.spread is None else self.spread(rank, queries, self.n_items, k, exclude)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode with one encoding for all calls inside, and no trace of it left in the model afterwards.

        Sets the flag of each module itself: SGL.train() would rebuild its graphs.
        """
        flags = [(module, module.training) for module in self.model.modules()]
        before = self._sharing, self._tables, self._is_frozen
        for module, _ in flags:
            module.training = False
        self._forget_cached_scores()
        self._sharing, self._tables, self._is_frozen = True, None, True
        try:
            with torch.no_grad():
                yield
        finally:
            self._sharing, self._tables, self._is_frozen = before
            self._forget_cached_scores()
            for module, training in flags:
                module.training = training

    # -- the model's own scores -------------------------------------------------------------------------------------

    def _ranks_whole_catalogue(self) -> bool:
        kind = type(self.model)
        return kind.full_sort_predict is not GeneralRecommender.full_sort_predict

    def _full_by_model(self, queries: Tensor) -> Tensor:
        keep = self._sharing and not torch.is_grad_enabled()
        if not keep:
            self._forget_cached_scores()  # of an evaluation: they are old, and constants
        scores = self.model.full_sort_predict(Interaction({self.model.USER_ID: queries}))
        if not keep:
            self._forget_cached_scores()
        return torch.as_tensor(scores, dtype=torch.float32, device=queries.device).view(len(queries), self.n_items)

    def _predict(self, queries: Tensor, items: Tensor) -> Tensor:
        rows = Interaction({self.model.USER_ID: queries, self.model.ITEM_ID: items})
        return torch.as_tensor(self.model.predict(rows), dtype=torch.float32, device=queries.device)

    def _forget_cached_scores(self) -> None:
        for name in cached_names(self.model):
            setattr(self.model, name, None)
