"""The scores of a student for its users and new users, from vectors or a rebuilt model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor

from recbole_kd.data.histories.history_rows import RowFields, Rows
from recbole_kd.errors import ConfigError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import DotProducts
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.scoring.vector_models import has_vectors
from recbole_kd.serving.fold_in import mapped, user_map
from recbole_kd.serving.known_interactions import KnownInteractions

Full = Callable[[Tensor], Tensor]
"""Indices into a block of users, int64 ``[b]`` -> scores of all items, float ``[b, n_items]``.

The next call may overwrite them."""
QUERY_VECTORS, ITEM_VECTORS = "query_vectors", "item_vectors"
"""Tensors of a student whose users have final vectors."""


class StudentScores(ABC):
    """The scores of one student, for a block of users at a time."""

    @abstractmethod
    def of_users(self, users: Tensor, as_tested: bool) -> AbstractContextManager[Full]:
        """Return a context with the scores of known users, int64 ``[B]``.

        Args:
            users: the users.
            as_tested: whether a sequential model gets the histories of the run's test, or all known items.
        """

    @abstractmethod
    def of_histories(self, histories: Sequence[Tensor], times: Sequence[Tensor] | None) -> AbstractContextManager[Full]:
        """Return a context with the scores of new users.

        Args:
            histories: items of each user, int64 ``[L]``, in order, not empty.
            times: time of each item in seconds, int64 or float64 ``[L]``.
        """

    @property
    @abstractmethod
    def has_vectors(self) -> bool:
        """Whether the score is a dot product of vectors."""

    @property
    @abstractmethod
    def reads_histories(self) -> bool:
        """Whether a user's score depends on the history."""

    @abstractmethod
    def user_vectors(self, users: Tensor, as_tested: bool = False) -> Tensor:
        """Return the vectors of known users, float ``[B, d]``.

        Args:
            as_tested: as for :meth:`of_users`.

        Raises:
            ConfigError: the score is not a dot product.
        """

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """Return the vectors of all items, float ``[n_items, d]``.

        Raises:
            ConfigError: the score is not a dot product.
        """


class VectorScores(StudentScores):
    """A student whose users and items have final vectors.

    Args:
        tensors: query_vectors float ``[n_users, d]`` and item_vectors float ``[n_items, d]``.
        known: its users' interactions, which new users need; None if only known users are asked about.
    """

    def __init__(self, tensors: Mapping[str, Tensor], known: KnownInteractions | None = None) -> None:
        self._queries, self._items, self._known = tensors[QUERY_VECTORS], tensors[ITEM_VECTORS], known

    def of_users(self, users: Tensor, as_tested: bool) -> AbstractContextManager[Full]:
        return nullcontext(DotProducts(self._queries[users], self._items))

    def of_histories(self, histories: Sequence[Tensor], times: Sequence[Tensor] | None) -> AbstractContextManager[Full]:
        if times is not None:
            raise ConfigError("times have no effect on a student without histories: leave them out.")
        rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        items = Ragged.from_pairs(rows, torch.cat(list(histories)).numpy(), len(histories))
        return nullcontext(DotProducts(mapped(self._user_map, self._items, items), self._items))

    @cached_property
    def _user_map(self) -> Tensor:
        if self._known is None:
            raise ConfigError("These vectors came without the histories of their users, which new users need.")
        return user_map(self._items, self._queries, self._known.trained)

    @property
    def has_vectors(self) -> bool:
        return True

    @property
    def reads_histories(self) -> bool:
        return False

    def user_vectors(self, users: Tensor, as_tested: bool = False) -> Tensor:
        return self._queries[users]

    def item_vectors(self) -> Tensor:
        return self._items


class ModelScores(StudentScores):
    """A student that is a RecBole model: sequential, or without a dot-product score.

    Args:
        model: the model.
        settings: its keys.
        known: the source of its users' histories.
    """

    def __init__(self, model: Any, settings: Mapping[str, Any], known: KnownInteractions) -> None:
        self.model, self._known = model, known
        self._with_times = bool(getattr(model, "has_times", False))
        self._fields = RowFields.of(settings) if isinstance(model, SequentialRecommender) else None

    def rows_of_users(self, users: Tensor, as_tested: bool) -> Rows | None:
        """Return the histories of known users, int64 ``[B]``; None for a model without histories."""
        return None if self._fields is None else self._known.histories(self._fields, users, self._with_times, as_tested)

    @contextmanager
    def of_users(self, users: Tensor, as_tested: bool) -> Iterator[Full]:
        rows = self.rows_of_users(users, as_tested)
        scorer = Scorer(self.model, rows)
        with scorer.frozen():
            yield scorer.catalogue() if rows is not None else lambda places: scorer.full(users[places])

    @contextmanager
    def of_histories(self, histories: Sequence[Tensor], times: Sequence[Tensor] | None) -> Iterator[Full]:
        rows = self._rows_of_histories(histories, times)
        scorer = Scorer(self.model, rows)
        with scorer.frozen():
            yield scorer.catalogue()

    def _rows_of_histories(self, histories: Sequence[Tensor], times: Sequence[Tensor] | None) -> Rows:
        if self._fields is None:
            raise ConfigError(
                f"{type(self.model).__name__} does not score by a dot product and reads no histories, so it cannot "
                "serve users whom it was not trained on: distil into a student such as MF, LightGCN or SASRec"
            )
        if times is not None and not self._with_times:
            raise ConfigError(
                f"times have no effect on this {type(self.model).__name__}, which was trained without times: "
                "leave them out."
            )
        items = torch.cat(list(histories))
        lengths = torch.tensor([len(history) for history in histories])
        ends = lengths.cumsum(0)
        seconds = torch.zeros_like(items) if times is None else torch.cat(list(times))
        return Rows(
            self._fields, items, seconds, torch.ones_like(ends), ends - lengths, ends, ends - 1, self._with_times
        )

    @property
    def has_vectors(self) -> bool:
        return has_vectors(type(self.model))

    @property
    def reads_histories(self) -> bool:
        return self._fields is not None

    def user_vectors(self, users: Tensor, as_tested: bool = False) -> Tensor:
        rows = self.rows_of_users(users, as_tested)
        scorer = Scorer(self.model, rows)
        with scorer.frozen():
            return scorer.query_vectors(users if rows is None else torch.arange(len(users))).clone()

    def item_vectors(self) -> Tensor:
        scorer = Scorer(self.model, self.rows_of_users(torch.zeros(1, dtype=torch.int64), as_tested=False))
        with scorer.frozen():
            return scorer.item_table().detach().clone()
