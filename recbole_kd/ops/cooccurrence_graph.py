"""Graphs of what occurs together: whose neighbours are the entities that share most interactions. Made once, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

PRODUCTS_PER_BLOCK = 2**22
"""Multiply-adds of one block of rows of the co-occurrence matrix, which bound its entries."""


@dataclass(frozen=True)
class WeightedGraph:
    """A sparse matrix by row: row r holds ``columns[starts[r]:starts[r + 1]]`` with these values.

    Attributes:
        starts: int64 ``[n + 1]``. columns: int64 ``[N]``. values: float32 ``[N]``.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    @classmethod
    def from_matrix(cls, matrix: sp.csr_matrix) -> WeightedGraph:
        matrix = matrix.sorted_indices()
        starts, columns = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
        return cls(starts, columns, torch.from_numpy(matrix.data.astype(np.float32)))

    def to(self, device: torch.device) -> WeightedGraph:
        return WeightedGraph(self.starts.to(device), self.columns.to(device), self.values.to(device))

    def edges(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Entries of the given rows: position in ``rows`` and column, int64 ``[m]``, and value, float32 ``[m]``; sorted by position."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        position = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), lengths)
        offset = torch.arange(len(position), device=rows.device) - (lengths.cumsum(0) - lengths)[position]
        place = self.starts[rows][position] + offset
        return position, self.columns[place], self.values[place]


def nearest_neighbours(interactions: sp.csr_matrix, n_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row the other rows that share most columns with it, ties by id: parallel (row, neighbour) int64 ``[m]``.

    A row has fewer than ``n_neighbours`` where it shares columns with fewer others.

    Args:
        interactions: 0/1 ``[n, m]``.
    """
    transposed = interactions.T.tocsr()
    parts = [_nearest_of_block(interactions, transposed, rows, n_neighbours) for rows in _row_blocks(interactions)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _row_blocks(interactions: sp.csr_matrix) -> Iterator[slice]:
    """Row slices whose product with the transposed matrix stays within the budget."""
    column_counts = np.bincount(interactions.indices, minlength=interactions.shape[1])
    work = np.cumsum(interactions @ column_counts) // PRODUCTS_PER_BLOCK
    cuts = [0, *(np.flatnonzero(np.diff(work)) + 1).tolist(), len(work)]
    for start, stop in pairwise(cuts):
        yield slice(start, stop)


def _nearest_of_block(
    matrix: sp.csr_matrix, transposed: sp.csr_matrix, rows: slice, n_neighbours: int
) -> tuple[np.ndarray, np.ndarray]:
    shared = (matrix[rows] @ transposed).tocoo()
    row, column, count = (part.astype(np.int64) for part in (shared.row, shared.col, shared.data))
    other = column != row + rows.start
    row, column, count = row[other], column[other], count[other]
    most, n = int(count.max(initial=0)) + 1, matrix.shape[0]
    key = np.sort((row * most + (most - 1 - count)) * n + column)  # by row, then most shared, then id
    row, column = key // (most * n), key % n
    place = np.arange(len(row)) - np.searchsorted(row, row)
    nearest = place < n_neighbours
    return row[nearest] + rows.start, column[nearest]


def normalised_graph(rows: np.ndarray, columns: np.ndarray, n: int) -> sp.csr_matrix:
    r""":math:`D^{-1/2} A D^{-1/2}` of :math:`A = (B + B^T)/2`, B the 0/1 matrix of these (row, column) pairs; ``[n, n]``, float64."""
    binary = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    graph = ((binary + binary.T) / 2).tocsr()
    degree = np.asarray(graph.sum(axis=1)).ravel()
    scale = sp.diags(1 / np.sqrt(np.where(degree > 0, degree, 1.0)))
    return sp.csr_matrix(scale @ graph @ scale)
