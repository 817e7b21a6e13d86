"""Scorer: the scores of any RecBole model at chosen items.

A **query** is one row for which a model ranks the whole catalogue. There are three kinds:

* A query of a general, knowledge-aware or context-aware model is a user (its RecBole id), in either setting.
  HSTUGeneral, HSTU as a general model, encodes that user's training history.
* A query of a sequential model is a history. A saved sequential model answers queries of its **universe**: id u below
  n_users is user u with the whole training history (the history of the validation row), and id n_users + r is row r of
  the training set, a prefix of a history.
* During training a sequential **student** answers queries about its training rows, the histories of its batch: id r + 1
  is row r, and id 0 is the pad. HSTU trains on one row per user, the longest history, so there the id is the user.

A sequential student asks a sequential teacher about the same history. A general student asks it about the user's whole
training history. A general teacher answers a sequential student with its scores for the row's user
(:class:`recbole_kd.teacher.stores.remapped.MappedScores`). So the teacher's scores, item sets and overlap of a
sequential student belong to a training row. If a method masks training items, those of the user are left out; for a row
these are the items of its history that the student sees, and its target.

Scores of HSTU are cosines, without the temperature of its own loss.
"""
# Over 300 lines: one class answers every question about scores; its helpers are in step_cache, frozen and own_scores.

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import (
    ContextRecommender,
    GeneralRecommender,
    KnowledgeRecommender,
    SequentialRecommender,
)
from recbole.model.general_recommender import BPR
from torch import Tensor, nn

from recbole_kd.config.argument_kinds import instance_of, takes
from recbole_kd.data.histories.history_rows import QUERY, Rows
from recbole_kd.distributed.row_sharding import Sharing
from recbole_kd.errors import ConfigError
from recbole_kd.ops.gathered_dot import gathered_dot
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import DotProducts, top_k_in_blocks
from recbole_kd.scoring.base import StudentScores
from recbole_kd.scoring.candidate_index import CandidateIndex
from recbole_kd.scoring.frozen import FrozenCache, evaluation_mode
from recbole_kd.scoring.own_scores import OwnScores, catalogue_size
from recbole_kd.scoring.prefix_encoding import encode_prefixes
from recbole_kd.scoring.step_cache import Batch, StepCache, VectorCache, encoded_once
from recbole_kd.scoring.vector_models import encoder_of, no_tables, softmax_of, vector_function

FAMILIES = (GeneralRecommender, SequentialRecommender, KnowledgeRecommender, ContextRecommender)

HISTORIES_PER_CALL = 512
"""Histories that are encoded at a time outside a training step."""


class Scorer(StudentScores):
    """The scores of one model at its queries.

    Args:
        model: a RecBole recommender of one of the families above; knowledge-aware and context-aware ones are teachers.
        rows: the histories that are a sequential model's queries, see
            :mod:`recbole_kd.data.histories.sequence_dataset`. None for a general model.

    Raises:
        ConfigError: the model is of another family, or sequential without rows.

    Examples:
        >>> data = recbole_kd.prepare_data(config)  # RecBole's Config of the student
        >>> scorer = recbole_kd.Scorer(get_model("MF")(config, data.train.dataset))
        >>> users = torch.tensor([1, 2])
        >>> scorer.full(users).shape  # all items and the pad
        torch.Size([2, 41])
        >>> scorer.at(users, torch.tensor([[3, 5], [4, 6]])).shape  # two items per user
        torch.Size([2, 2])
        >>> ids, scores = scorer.top_k(users, k=3)
        >>> bool((scores[:, 0] >= scores[:, 1]).all())
        True
    """

    @takes(rows=instance_of(Rows, words="the histories of a sequential model").or_none())
    def __init__(self, model: nn.Module, rows: Rows | None = None) -> None:
        if not isinstance(model, FAMILIES):
            raise ConfigError(
                f"{type(model).__name__} is not a general or sequential recommender, nor a knowledge-aware or "
                "context-aware one: recbole_kd scores only these families of RecBole"
            )
        if isinstance(model, SequentialRecommender) and rows is None:
            raise ConfigError(
                f"{type(model).__name__} is a sequential model, whose queries are histories: give the training data "
                "too (train_data=...)"
            )
        self.model = model
        self.rows = rows if isinstance(model, SequentialRecommender) else None
        self.n_queries: int = model.n_users if self.rows is None else len(self.rows)
        self.n_items: int = catalogue_size(model)
        encode = vector_function(type(model))
        self._encode = None if encode is None else partial(encode, model)
        self._encoder = encoder_of(type(model))
        self._own = OwnScores(model, self.rows)
        self._asks = False  # whether the scorer calls the model
        self._cache: VectorCache | None = None  # of the open training step or frozen block
        self.sharing: Sharing | None = None
        """Divides work on many queries among processes that train together. None for a single process."""
        self.index: CandidateIndex | None = None
        """Ranks approximately in a very large catalogue. It needs a score that is a dot product."""

    def __reduce__(self) -> tuple[type, tuple[nn.Module, Rows | None]]:
        return type(self), (self.model, self.rows)

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def has_vectors(self) -> bool:
        """Whether the score is a dot product of vectors that this scorer can return."""
        return self._encode is not None or self._encoder is not None

    @property
    def looks_up(self) -> bool:
        """Whether its vectors are rows of the model's own tables, without any computation."""
        return self.has_vectors and self._shared_method() is None

    # -- one encoding per training step ---------------------------------------------------------------------------

    def _shared_method(self) -> str | None:
        """Return the name of the model's method whose result base loss and KD terms share."""
        if self._encoder is not None:
            return self._encoder.shared
        if self.rows is not None:
            return "forward" if self._own.ranks_whole_catalogue else None  # else it takes pairs, each call its own
        return "forward" if self._encode is not None and not isinstance(self.model, BPR) else None

    @contextmanager
    def step(self, interaction: Interaction | None = None) -> Iterator[None]:
        """Let the model encode once per training step, for the base loss and every KD term.

        They share the vectors and their dropout mask. If the base loss is a softmax over the whole catalogue, they also
        share its scores. Graph models call ``self.forward(...)`` in calculate_loss, HSTU ``self.encode(...)``, and
        sequential models ``self.forward(...)`` on the batch's columns. During the step the result of that call is
        cached by its arguments.

        Args:
            interaction: the training batch. Its queries are taken from that encoding, and only these are encoded.
        """
        cache = StepCache(batch=self._batch_of(interaction))
        softmax = None if cache.batch is None else softmax_of(self.model)
        with (
            encoded_once(self.model, self._shared_method(), unless=lambda: self._is_frozen, asked=lambda: self._asks),
            cache.logits_of(softmax, self.n_items),
        ):
            self._cache = cache
            try:
                yield
            finally:
                self._cache = None

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Mark the calls of the model inside the block as the scorer's."""
        before, self._asks = self._asks, True
        try:
            yield
        finally:
            self._asks = before

    def _batch_of(self, interaction: Interaction | None) -> Batch | None:
        field = QUERY if self.rows is not None else self.model.USER_ID
        if interaction is None or field not in interaction or (self._encoder is None and self.rows is None):
            return None
        return Batch.of(interaction, field)

    @property
    def _is_frozen(self) -> bool:
        return isinstance(self._cache, FrozenCache)

    def _in_step(self, queries: Tensor) -> tuple[StepCache, Interaction, Tensor] | None:
        """Return the open step's cache, its batch, and each query's row in it, int64 ``[B]``.

        None if a query is not in the batch.
        """
        cache = self._cache
        if not isinstance(cache, StepCache) or cache.batch is None:
            return None
        positions = cache.batch.positions(queries)
        return None if positions is None else (cache, cache.batch.interaction, positions)

    # -- vectors ------------------------------------------------------------------------------------------------------

    def tables(self) -> tuple[Tensor, Tensor]:
        """Return query vectors ``[n_queries, d]`` and item vectors ``[n_items, d]``.

        They are differentiable. This encodes all queries. In a training step use :meth:`query_vectors` and
        :meth:`item_table`.

        Raises:
            ConfigError: the model's score is not a dot product.
        """
        if self._cache is not None and self._cache.tables is not None:
            return self._cache.tables
        if self._encode is not None:
            with self._asking():
                found = self._encode()
            assert found is not None
            tables = found
        else:
            tables = self._encoded(torch.arange(self.n_queries, device=self.device)), self.item_table()
        if self._cache is not None:
            self._cache.tables = tables
        return tables

    def query_vectors(self, queries: Tensor) -> Tensor:
        """Return the vectors of some queries: int64 ``[B]`` -> float ``[B, d]``, differentiable.

        In a frozen block all queries are encoded once.

        Raises:
            ConfigError: the model's score is not a dot product.
        """
        if self._encoder is None or self._is_frozen:
            return self.tables()[0][queries]
        return self._encoded(queries)

    def item_table(self) -> Tensor:
        """Return the vectors of all items, float ``[n_items, d]``, differentiable.

        Raises:
            ConfigError: the model's score is not a dot product.
        """
        if self._encoder is None:
            if self._encode is None:
                raise ConfigError(f"{type(self.model).__name__} has no vectors whose dot product is its score")
            return self.tables()[1]
        if self._cache is None:
            return self._encoder.items(self.model)
        if self._cache.items is None:
            self._cache.items = self._encoder.items(self.model)
        return self._cache.items

    def _encoded(self, queries: Tensor) -> Tensor:
        """Return vectors from the encoder: of the step's batch, or block by block."""
        if self._encoder is None:
            raise ConfigError(f"{type(self.model).__name__} has no vectors whose dot product is its score")
        found = self._in_step(queries)
        if found is not None:
            _, rows, positions = found
            with self._asking():
                return self._encoder.in_step(self.model, rows)[positions]
        if (
            self.rows is not None
            and self._encoder.positions is not None
            and not self.model.training
            and len(queries) > 1
        ):
            return encode_prefixes(partial(self._encoder.positions, self.model), self.rows, queries)
        return torch.cat(
            [
                self._encoder.queries(self.model, self._own.interaction(some))
                for some in queries.split(HISTORIES_PER_CALL)
            ]
        )

    def _vectors(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of some queries and of all items, from one encoding."""
        if self._encoder is not None:
            return self.query_vectors(queries), self.item_table()
        query_table, item_table = self.tables()
        return query_table[queries], item_table

    def ego_tables(self) -> tuple[Tensor, Tensor]:
        """Return the model's own embedding tables, before any propagation.

        Returns:
            query table ``[n_queries, d]`` and item table ``[n_items, d]``, differentiable.

        Raises:
            ConfigError: the model has no tables under RecBole's usual names, like HSTU and sequential models, which
                have no user table.
        """
        tables = [getattr(self.model, name, None) for name in ("user_embedding", "item_embedding")]
        query, item = (table.weight if isinstance(table, nn.Embedding) else None for table in tables)
        if query is None or item is None or (len(query), len(item)) != (self.n_queries, self.n_items):
            raise ConfigError(no_tables(type(self.model)))
        return query, item

    # -- scores -----------------------------------------------------------------------------------------------------

    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        """Return each query's scores at its own items, differentiable.

        Args:
            queries: int64 ``[B]``.
            items: int64 ``[B, K]``.

        Returns:
            float ``[B, K]``.
        """
        if self.has_vectors:
            return gathered_dot(*self._vectors(queries), items)
        if self._own.ranks_whole_catalogue:
            return self.full(queries).gather(1, items)
        rows = queries.repeat_interleave(items.shape[1])
        return self._own.pairs(rows, items.reshape(-1)).view_as(items)

    def known_rows(self, queries: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the catalogue scores that this step has, if any.

        They are those that the base loss has computed. For a sequential model without vectors they are computed here,
        once for the whole batch: nothing may be computed from the step's encoding again in the backward pass, when the
        step is over.

        Args:
            queries: int64 ``[B]``.

        Returns:
            float ``[rows, n_items]``, pad item included, differentiable, and int64 ``[B]``, the row of each query. None
            if there are no such scores for all these queries.
        """
        found = self._in_step(queries)
        if found is None:
            return None
        cache, rows, positions = found
        if cache.logits is None and not self.has_vectors and self._own.fits_a_step(queries, len(rows)):
            with self._asking():
                cache.logits = self.model.full_sort_predict(rows).view(-1, self.n_items).float()
        return None if cache.logits is None else (cache.logits, positions)

    def full(self, queries: Tensor) -> Tensor:
        """Return each query's scores at every item, pad included, differentiable.

        Args:
            queries: int64 ``[B]``.

        Returns:
            float ``[B, n_items]``.
        """
        known = self.known_rows(queries)
        if known is not None:
            return known[0].index_select(0, known[1])
        if self.has_vectors:
            query_vectors, item_table = self._vectors(queries)
            return query_vectors @ item_table.T
        return self._full_by_model(queries)

    def catalogue(self) -> Callable[[Tensor], Tensor]:
        """Return a function like :meth:`full` for blocks of queries inside :meth:`frozen`.

        The next call in the same thread overwrites the result of the previous one.
        """
        return DotProducts(*self.tables()) if self.has_vectors else self.full

    @torch.no_grad()
    def top_k(self, queries: Tensor, k: int, exclude: Ragged | None = None) -> tuple[Tensor, Tensor]:
        """Return each query's k best items, best first, ties by id.

        The model is in evaluation mode and without gradients. Work is done in blocks. With an :attr:`index` the lists
        are approximate. See :func:`recbole_kd.ops.topk.top_k_in_blocks` for short rows.

        Returns:
            ids int64 ``[Q, k]`` and scores float ``[Q, k]``.
        """
        inside = self._is_frozen  # the caller ranks more queries, so all are encoded once
        with self.frozen():
            tables = None
            if self.has_vectors and (self.index is not None or (inside and self.sharing is None)):
                tables = self.tables() if inside else self.tables_for(queries)
            if self.index is not None and tables is not None:
                return self.index.top_k(*tables, queries, k, exclude, self.sharing)
            if self.sharing is None:
                return self._ranked(queries, k, exclude, tables)
            ids, scores = self._ranked(queries[self.sharing.slice_of(len(queries))], k, exclude)
            return self.sharing.gather(ids, len(queries)), self.sharing.gather(scores, len(queries))

    def _ranked(
        self, queries: Tensor, k: int, exclude: Ragged | None, tables: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return :meth:`top_k` of this process's queries, exactly."""
        full = DotProducts(*(tables or self.tables_for(queries))) if self.has_vectors else self.full
        return top_k_in_blocks(full, queries, self.n_items, k, exclude)

    def tables_for(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return :meth:`tables` in which only the rows of these queries need to be valid.

        An encoder leaves the other rows at zero.
        """
        if self._encoder is None or len(queries) >= self.n_queries or not len(queries):
            return self.tables()
        some = self._encoded(queries)
        return some.new_zeros(self.n_queries, some.shape[1]).index_copy(0, queries, some), self.item_table()

    @contextmanager
    def frozen(self, tables: tuple[Tensor, Tensor] | None = None) -> Iterator[None]:
        """Freeze the model for a block of calls (:mod:`recbole_kd.scoring.frozen`).

        All calls share one index. A nested block changes nothing.

        Args:
            tables: its vectors (:meth:`tables`) if they are known.
        """
        if self._is_frozen:
            yield
            return
        before, self._cache = self._cache, FrozenCache(tables)
        try:
            with evaluation_mode(self.model):
                yield
        finally:
            self._cache = before
            if self.index is not None:
                self.index.close()

    def _full_by_model(self, queries: Tensor) -> Tensor:
        return self._own.full(queries, keep_tables=self._cache is not None and not torch.is_grad_enabled())
