"""Co-occurrence graphs, built once on the CPU: neighbours share most interactions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

PRODUCTS_PER_BLOCK = 2**22
"""Multiply-adds for one block of rows of the co-occurrence matrix; they bound the entries of the block."""


@dataclass(frozen=True)
class WeightedGraph:
    """A sparse matrix, stored by row.

    Row r holds ``columns[starts[r]:starts[r + 1]]`` and their values.

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
        """Return the entries of the given rows, sorted by position.

        Returns:
            position in ``rows`` and column, int64 ``[m]`` each, and value, float32 ``[m]``.
        """
        lengths = self.starts[rows + 1] - self.starts[rows]
        position = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), lengths)
        offset = torch.arange(len(position), device=rows.device) - (lengths.cumsum(0) - lengths)[position]
        place = self.starts[rows][position] + offset
        return position, self.columns[place], self.values[place]


def nearest_neighbours(interactions: sp.csr_matrix, n_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row the other rows that share most columns with it, ties by id.

    A row has fewer than ``n_neighbours`` neighbours if it shares columns with fewer rows.

    Args:
        interactions: 0/1 ``[n, m]``.

    Returns:
        parallel arrays (row, neighbour), int64 ``[m]`` each.
    """
    transposed = interactions.T.tocsr()
    parts = [_nearest_of_block(interactions, transposed, rows, n_neighbours) for rows in _row_blocks(interactions)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _row_blocks(interactions: sp.csr_matrix) -> Iterator[slice]:
    """Yield row slices whose product with the transposed matrix stays within the budget."""
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
    r"""Return :math:`D^{-1/2} A D^{-1/2}` for :math:`A = (B + B^T)/2`, float64 ``[n, n]``.

    B is the 0/1 matrix of the given (row, column) pairs; D is the diagonal matrix of A's row sums.
    """
    binary = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    graph = ((binary + binary.T) / 2).tocsr()
    degree = np.asarray(graph.sum(axis=1)).ravel()
    scale = sp.diags(1 / np.sqrt(np.where(degree > 0, degree, 1.0)))
    return sp.csr_matrix(scale @ graph @ scale)
