"""The scores of two embedding tables, for a training loop without RecBole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recbole_kd.errors import ArgumentError
from recbole_kd.ops.gathered_dot import gathered_dot
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import DotProducts, top_k_in_blocks
from recbole_kd.scoring.base import StudentScores

Table = nn.Embedding | Callable[[], Tensor]


class TableScorer(StudentScores):
    """Scores as dot products of the rows of two tables; row 0 of each is the pad.

    Args:
        queries: users (or whatever is ranked for): an ``nn.Embedding``, or a function that returns float
            ``[n_queries, d]``, such as the propagation of a graph model.
        items: the same for items, float ``[n_items, d]``.

    Raises:
        ArgumentError: the tables are not two-dimensional or differ in width.

    Examples:
        >>> users, items = torch.nn.Embedding(4, 8), torch.nn.Embedding(6, 8)
        >>> student = TableScorer(users, items)
        >>> student.full(torch.tensor([1, 2])).shape
        torch.Size([2, 6])
    """

    def __init__(self, queries: Table, items: Table) -> None:
        self._queries, self._items = queries, items
        self._frozen: tuple[Tensor, Tensor] | None = None
        with torch.no_grad():
            query_table, item_table = self.tables()
        shapes = tuple(query_table.shape), tuple(item_table.shape)
        if query_table.dim() != 2 or item_table.dim() != 2 or shapes[0][1] != shapes[1][1]:
            raise ArgumentError(
                f"TableScorer got tables of {shapes[0]} and {shapes[1]}: expected [n_queries, d] and [n_items, d]"
            )
        self.n_queries, self.n_items = len(query_table), len(item_table)

    @property
    def device(self) -> torch.device:
        return _rows(self._items).device

    @property
    def has_vectors(self) -> bool:
        return True

    def tables(self) -> tuple[Tensor, Tensor]:
        return self._frozen or (_rows(self._queries), _rows(self._items))

    def query_vectors(self, queries: Tensor) -> Tensor:
        return self.tables()[0][queries]

    def item_table(self) -> Tensor:
        return self.tables()[1]

    def tables_for(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        return self.tables()

    def ego_tables(self) -> tuple[Tensor, Tensor]:
        return _rows(self._queries), _rows(self._items)

    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        query_table, item_table = self.tables()
        return gathered_dot(query_table[queries], item_table, items)

    def known_rows(self, queries: Tensor) -> tuple[Tensor, Tensor] | None:
        return None

    def full(self, queries: Tensor) -> Tensor:
        query_table, item_table = self.tables()
        return query_table[queries] @ item_table.T

    def catalogue(self) -> Callable[[Tensor], Tensor]:
        return DotProducts(*self.tables())

    @torch.no_grad()
    def top_k(self, queries: Tensor, k: int, exclude: Ragged | None = None) -> tuple[Tensor, Tensor]:
        return top_k_in_blocks(DotProducts(*self.tables()), queries, self.n_items, k, exclude)

    @contextmanager
    def frozen(self, tables: tuple[Tensor, Tensor] | None = None) -> Iterator[None]:
        before = self._frozen
        with torch.no_grad():
            if before is None:
                self._frozen = tables or self.tables()
            try:
                yield
            finally:
                self._frozen = before


def _rows(table: Table) -> Tensor:
    return table.weight if isinstance(table, nn.Embedding) else table()
