"""StudentScores: what a distiller asks of a student. No RecBole import.

:class:`recbole_kd.scoring.scorer.Scorer` answers for any RecBole model, :class:`recbole_kd.scoring.tables.TableScorer`
for two embedding tables in a training loop of one's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recbole_kd.ops.ragged import Ragged

if TYPE_CHECKING:
    from recbole_kd.distributed.row_sharding import Sharing
    from recbole_kd.scoring.candidate_index import CandidateIndex


class StudentScores(ABC):
    """The scores of a student at its queries, see :mod:`recbole_kd.scoring.scorer` for queries.

    Attributes:
        n_queries, n_items: sizes with the pad (id 0).
        sharing: divides work on many queries among processes that train together. None for a single process.
        index: ranks approximately in a very large catalogue. None for exact ranking.
    """

    n_queries: int
    n_items: int
    sharing: Sharing | None = None
    index: CandidateIndex | None = None

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the student's parameters."""

    @property
    @abstractmethod
    def has_vectors(self) -> bool:
        """Whether the score is a dot product of vectors that can be returned."""

    @property
    def looks_up(self) -> bool:
        """Whether the vectors are rows of the student's own tables, without any computation."""
        return False

    def step(self, interaction: Any = None) -> AbstractContextManager[None]:
        """Let base loss and KD loss of one training step share what they encode.

        A student that computes nothing has nothing to share.

        Args:
            interaction: the training batch.
        """
        return nullcontext()

    @abstractmethod
    def tables(self) -> tuple[Tensor, Tensor]:
        """Return query vectors ``[n_queries, d]`` and item vectors ``[n_items, d]``, differentiable.

        Raises:
            ConfigError: the score is not a dot product.
        """

    @abstractmethod
    def query_vectors(self, queries: Tensor) -> Tensor:
        """Return the vectors of some queries: int64 ``[B]`` -> float ``[B, d]``, differentiable."""

    @abstractmethod
    def item_table(self) -> Tensor:
        """Return the vectors of all items, float ``[n_items, d]``, differentiable."""

    @abstractmethod
    def tables_for(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return :meth:`tables` in which only the rows of these queries need to be valid."""

    @abstractmethod
    def ego_tables(self) -> tuple[Tensor, Tensor]:
        """Return the student's own embedding tables, before any propagation."""

    @abstractmethod
    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        """Return scores at chosen items: int64 ``[B]`` and ``[B, K]`` -> float ``[B, K]``, differentiable."""

    @abstractmethod
    def known_rows(self, queries: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the catalogue scores ``[rows, n_items]`` of this step and each query's row, or None."""

    @abstractmethod
    def full(self, queries: Tensor) -> Tensor:
        """Return scores at every item, pad included: int64 ``[B]`` -> float ``[B, n_items]``, differentiable."""

    @abstractmethod
    def catalogue(self) -> Callable[[Tensor], Tensor]:
        """Return a function like :meth:`full` for blocks of queries inside :meth:`frozen`.

        The next call in the same thread overwrites the result of the previous one.
        """

    @abstractmethod
    def top_k(self, queries: Tensor, k: int, exclude: Ragged | None = None) -> tuple[Tensor, Tensor]:
        """Return each query's k best items, best first, ties by id, without gradients.

        Returns:
            ids int64 ``[Q, k]`` and scores float ``[Q, k]``.
        """

    @abstractmethod
    def frozen(self, tables: tuple[Tensor, Tensor] | None = None) -> AbstractContextManager[None]:
        """Freeze the student for a block of calls: no gradients, one encoding.

        Args:
            tables: its vectors (:meth:`tables`) if they are known.
        """
