"""Scorer: any RecBole model, scored at chosen items.

A **query** is one row for which a model ranks the whole catalogue. Who asks whom about what is said here, once:

* A general model's query is a user (its RecBole id), in either setting. HSTUGeneral, HSTU's general face, encodes that user's training
  history.
* A sequential model's query is a history. What is kept of a trained one answers about its **universe**: id u below n_users is user u with
  the whole training history (the history of the validation row), id n_users + r is row r of the training set, a prefix of a history.
* A sequential **student** is asked in training about the rows it trains on, the histories of its batch: id r + 1 is row r, id 0 the pad.
  HSTU trains on one row a user, that with the longest history: there the id is the user.

A sequential teacher is asked by a sequential student about the same history, by a general one about the user's whole training history; a
general teacher answers a sequential student with what it says of the row's user
(:class:`recbole_kd.teacher.stores.remapped.MappedScores`). So
teacher's scores, item sets and overlap of a sequential student are those of a training row. The training items of a user are left out where
a method masks them; of a row, the items of its history that the student sees, and its target.

Scores of HSTU are cosines, without the temperature of its own loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender
from recbole.model.general_recommender import BPR
from torch import Tensor, nn

from recbole_kd.data.histories.history_rows import QUERY, Rows
from recbole_kd.distributed.row_sharding import Sharing
from recbole_kd.errors import ConfigError
from recbole_kd.ops.gathered_dot import gathered_dot
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import DotProducts, top_k_in_blocks
from recbole_kd.scoring.candidate_index import CandidateIndex
from recbole_kd.scoring.prefix_encoding import encode_prefixes
from recbole_kd.scoring.step_cache import Batch, remembered
from recbole_kd.scoring.vector_models import cached_names, encoder_of, no_tables, softmax_of, vector_function

PAIRS_PER_CALL = 2**18
"""How many (query, item) rows a model without full_sort_predict scores in one predict call."""

HISTORIES_PER_CALL = 512
"""How many histories are encoded at a time outside of a training step."""


class Scorer:
    """Scores of one model at its queries.

    Args:
        model: a RecBole general or sequential recommender.
        rows: the histories that are a sequential model's queries, see :mod:`recbole_kd.data.histories.sequence_dataset`; None
        for a general model.

    Raises:
        ConfigError: the model is of another family, or sequential without rows.
    """

    def __init__(self, model: nn.Module, rows: Rows | None = None) -> None:
        if not isinstance(model, GeneralRecommender | SequentialRecommender):
            raise ConfigError(
                f"{type(model).__name__} is no general or sequential recommender: recbole_kd scores these families of RecBole only"
            )
        if isinstance(model, SequentialRecommender) and rows is None:
            raise ConfigError(
                f"{type(model).__name__} is a sequential model, whose queries are histories: give the training data too (train_data=...)"
            )
        self.model = model
        self.rows = rows if isinstance(model, SequentialRecommender) else None
        self.n_queries: int = model.n_users if self.rows is None else len(self.rows)
        self.n_items: int = model.n_items
        encode = vector_function(type(model))
        self._encode = None if encode is None else partial(encode, model)
        self._encoder = encoder_of(type(model))
        self._tables: tuple[Tensor, Tensor] | None = None
        self._items: Tensor | None = None
        self._batch: Batch | None = None
        self._logits: Tensor | None = None
        self._sharing = False
        self._is_frozen = False
        self.sharing: Sharing | None = None
        """How processes that train together share out what is done for many queries; None for one alone."""
        self.index: CandidateIndex | None = None
        """Ranks approximately, where the catalogue is too large to be ranked whole; for a score that is a dot product."""

    def __reduce__(self) -> tuple[type, tuple[nn.Module, Rows | None]]:
        return type(self), (self.model, self.rows)

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def has_vectors(self) -> bool:
        """Is the score a dot product of vectors this scorer can hand out?"""
        return self._encode is not None or self._encoder is not None

    @property
    def looks_up(self) -> bool:
        """Are its vectors rows of the model's own tables, with nothing to compute?"""
        return self.has_vectors and self._shared_method() is None

    # -- one encoding per training step ---------------------------------------------------------------------------

    def _shared_method(self) -> str | None:
        """The method of the model whose result base loss and KD terms share."""
        if self._encoder is not None:
            return self._encoder.shared
        if self.rows is not None:
            return "forward"
        return "forward" if self._encode is not None and not isinstance(self.model, BPR) else None

    @contextmanager
    def step(self, interaction: Interaction | None = None) -> Iterator[None]:
        """Within it the model encodes once: the base loss and every KD term share the vectors and their dropout mask, and the scores of the
        whole catalogue where the base loss is a softmax over it.

        Graph models call ``self.forward(...)`` in calculate_loss, HSTU ``self.encode(...)``, sequential models ``self.forward(...)`` of the
        batch's columns; for the length of the step that call is remembered by its arguments.

        Args:
            interaction: the training batch. Its queries are then taken from that encoding, and never more than those are encoded.
        """
        name = self._shared_method()
        if name is not None:
            own = self.model.__dict__.get(name)
            setattr(self.model, name, remembered(getattr(self.model, name), unless=lambda: self._is_frozen))
        self._sharing, self._batch = True, self._batch_of(interaction)
        softmax = None if self._batch is None else softmax_of(self.model)
        hook = None if softmax is None else softmax.register_forward_pre_hook(self._keep_logits)
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()
            if name is not None:
                delattr(self.model, name)
                if own is not None:
                    setattr(self.model, name, own)
            self._sharing, self._tables, self._items, self._batch, self._logits = False, None, None, None, None

    def _keep_logits(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        """Of the base loss's softmax. In half precision they are no substitute for products in float32."""
        logits = given[0]
        assert self._batch is not None
        if logits.shape == (len(self._batch.ids), self.n_items) and logits.dtype in (torch.float32, torch.float64):
            self._logits = logits

    def _batch_of(self, interaction: Interaction | None) -> Batch | None:
        field = QUERY if self.rows is not None else self.model.USER_ID
        if interaction is None or field not in interaction or (self._encoder is None and self.rows is None):
            return None
        return Batch.of(interaction, field)

    def _places(self, queries: Tensor) -> Tensor | None:
        """Where queries stand in the batch of the step, int64 ``[B]``; None outside of a step or where one is not in it."""
        return None if self._batch is None or self._is_frozen else self._batch.places(queries)

    # -- vectors ------------------------------------------------------------------------------------------------------

    def tables(self) -> tuple[Tensor, Tensor]:
        """(query vectors ``[n_queries, d]``, item vectors ``[n_items, d]``), differentiable. All queries: in a training step ask for
        :meth:`query_vectors` and :meth:`item_table`.

        Raises:
            ConfigError: the model's score is no dot product.
        """
        if self._tables is not None:
            return self._tables
        if self._encode is not None:
            found = self._encode()
            assert found is not None
            tables = found
        else:
            tables = self._encoded(torch.arange(self.n_queries, device=self.device)), self.item_table()
        if self._sharing:
            self._tables = tables
        return tables

    def query_vectors(self, queries: Tensor) -> Tensor:
        """Vectors of some queries: int64 ``[B]`` -> float ``[B, d]``, differentiable. Frozen, all are encoded, once.

        Raises:
            ConfigError: the model's score is no dot product.
        """
        if self._encoder is None or self._is_frozen:
            return self.tables()[0][queries]
        return self._encoded(queries)

    def item_table(self) -> Tensor:
        """Vectors of all items, float ``[n_items, d]``, differentiable.

        Raises:
            ConfigError: the model's score is no dot product.
        """
        if self._encoder is None:
            if self._encode is None:
                raise ConfigError(f"{type(self.model).__name__} has no vectors whose dot product is its score")
            return self.tables()[1]
        items = self._encoder.items(self.model) if self._items is None else self._items
        if self._sharing:
            self._items = items
        return items

    def _encoded(self, queries: Tensor) -> Tensor:
        """Vectors from the encoder: of the step's batch, or block by block."""
        if self._encoder is None:
            raise ConfigError(f"{type(self.model).__name__} has no vectors whose dot product is its score")
        places = self._places(queries)
        if places is not None:
            assert self._batch is not None
            return self._encoder.in_step(self.model, self._batch.interaction)[places]
        if self.rows is not None and self._encoder.positions is not None and not self.model.training and len(queries) > 1:
            return encode_prefixes(partial(self._encoder.positions, self.model), self.rows, queries)
        return torch.cat([self._encoder.queries(self.model, self._interaction(some)) for some in queries.split(HISTORIES_PER_CALL)])

    def _vectors(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of some queries and of all items, by one encoding."""
        if self._encoder is not None:
            return self.query_vectors(queries), self.item_table()
        query_table, item_table = self.tables()
        return query_table[queries], item_table

    def ego_tables(self) -> tuple[Tensor, Tensor]:
        """The model's own embedding tables, before any propagation: (query ``[n_queries, d]``, item ``[n_items, d]``), differentiable.

        Raises:
            ConfigError: the model keeps none under RecBole's usual names, as HSTU and sequential models, which have no table of users.
        """
        tables = [getattr(self.model, name, None) for name in ("user_embedding", "item_embedding")]
        query, item = (table.weight if isinstance(table, nn.Embedding) else None for table in tables)
        if query is None or item is None or (len(query), len(item)) != (self.n_queries, self.n_items):
            raise ConfigError(no_tables(type(self.model)))
        return query, item

    # -- scores -----------------------------------------------------------------------------------------------------

    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        """Scores of each query at its own items: int64 ``[B]``, int64 ``[B, K]`` -> float ``[B, K]``, differentiable."""
        if self.has_vectors:
            return gathered_dot(*self._vectors(queries), items)
        if self._ranks_whole_catalogue():
            return self._full_by_model(queries).gather(1, items)
        rows = queries.repeat_interleave(items.shape[1])
        return self._predict(rows, items.reshape(-1)).view_as(items)

    def known_rows(self, queries: Tensor) -> tuple[Tensor, Tensor] | None:
        """Scores of the whole catalogue that this step's base loss has made, differentiable, and the row of each query in them.

        Args:
            queries: int64 ``[B]``.

        Returns:
            float ``[rows, n_items]``, pad item included, and int64 ``[B]``; None where there are none of all these queries.
        """
        places = None if self._logits is None else self._places(queries)
        return None if self._logits is None or places is None else (self._logits, places)

    def full(self, queries: Tensor) -> Tensor:
        """Scores of each query at every item, pad item included: int64 ``[B]`` -> float ``[B, n_items]``, differentiable."""
        known = self.known_rows(queries)
        if known is not None:
            return known[0].index_select(0, known[1])
        if self.has_vectors:
            query_vectors, item_table = self._vectors(queries)
            return query_vectors @ item_table.T
        if self._ranks_whole_catalogue():
            return self._full_by_model(queries)
        every = torch.arange(self.n_items, device=queries.device)
        step = max(1, PAIRS_PER_CALL // self.n_items)
        rows = [self._predict(q.repeat_interleave(self.n_items), every.repeat(len(q))).view(len(q), -1) for q in queries.split(step)]
        return torch.cat(rows)

    def catalogue(self) -> Callable[[Tensor], Tensor]:
        """As :meth:`full`, for one block of queries after the other inside :meth:`frozen`: the thread's next call overwrites it."""
        return DotProducts(*self.tables()) if self.has_vectors else self.full

    @torch.no_grad()
    def top_k(self, queries: Tensor, k: int, exclude: Ragged | None = None) -> tuple[Tensor, Tensor]:
        """Each query's k best items, best first, ties by id: ids int64 ``[Q, k]`` and scores float ``[Q, k]``.

        Evaluation mode, no gradient, in blocks; approximately where there is an :attr:`index`. See
        :func:`recbole_kd.ops.topk.top_k_in_blocks` for short rows.
        """
        inside = self._is_frozen  # of a caller that ranks more queries: all are encoded, once
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
        """:meth:`top_k` of this process's queries, exactly."""
        full = DotProducts(*(tables or self.tables_for(queries))) if self.has_vectors else self.full
        return top_k_in_blocks(full, queries, self.n_items, k, exclude)

    def tables_for(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`tables`, whose rows of these queries are right: an encoder leaves the others alone."""
        if self._encoder is None or len(queries) >= self.n_queries or not len(queries):
            return self.tables()
        some = self._encoded(queries)
        return some.new_zeros(self.n_queries, some.shape[1]).index_copy(0, queries, some), self.item_table()

    @contextmanager
    def frozen(self, tables: tuple[Tensor, Tensor] | None = None) -> Iterator[None]:
        """Evaluation mode with one encoding (``tables``, where it is known) and one index for all calls inside, and no trace of it left in
        the model.

        Sets the flag of each module itself: SGL.train() would rebuild its graphs. Within another one it changes nothing.
        """
        if self._is_frozen:
            yield
            return
        flags = [(module, module.training) for module in self.model.modules()]
        before = self._sharing, self._tables, self._items, self._is_frozen
        for module, _ in flags:
            module.training = False
        self._forget_cached_scores()
        self._sharing, self._tables, self._items, self._is_frozen = True, tables, None, True
        try:
            with torch.no_grad():
                yield
        finally:
            self._sharing, self._tables, self._items, self._is_frozen = before
            self._forget_cached_scores()
            if self.index is not None:
                self.index.close()
            for module, training in flags:
                module.training = training

    # -- the model's own scores -------------------------------------------------------------------------------------

    def _ranks_whole_catalogue(self) -> bool:
        kind = type(self.model)
        return kind.full_sort_predict is not GeneralRecommender.full_sort_predict

    def _interaction(self, queries: Tensor) -> Interaction:
        """The queries as the model takes them."""
        if self.rows is None:
            return Interaction({self.model.USER_ID: queries})
        return self.rows.interaction(queries).to(queries.device)

    def _full_by_model(self, queries: Tensor) -> Tensor:
        places = self._places(queries)
        if places is not None:  # a sequential model in a training step: its batch is encoded already
            assert self._batch is not None
            return self.model.full_sort_predict(self._batch.interaction).view(-1, self.n_items)[places].float()
        keep = self._sharing and not torch.is_grad_enabled()
        if not keep:
            self._forget_cached_scores()  # of an evaluation: they are old, and constants
        scores = self.model.full_sort_predict(self._interaction(queries))
        if not keep:
            self._forget_cached_scores()
        return torch.as_tensor(scores, dtype=torch.float32, device=queries.device).view(len(queries), self.n_items)

    def _predict(self, queries: Tensor, items: Tensor) -> Tensor:
        rows = self._interaction(queries)
        rows.update(Interaction({self.model.ITEM_ID: items}))
        return torch.as_tensor(self.model.predict(rows), dtype=torch.float32, device=queries.device)

    def _forget_cached_scores(self) -> None:
        for name in cached_names(self.model):
            setattr(self.model, name, None)
