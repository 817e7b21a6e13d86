"""Truncated SVD of a teacher's scores: the best factors of a width in least squares."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recbole_kd.errors import ConfigError
from recbole_kd.ops.topk import blocks
from recbole_kd.teacher.base import TeacherScores

ROUNDS = 4
"""Power iterations of the randomised method."""

EXTRA = 16
"""Columns that the randomised method uses in addition to those wanted."""

ROWS = 2**14
NEGLIGIBLE = 1e-12
"""Squared singular values of a table below this share of the largest are noise."""


def truncated(teacher: TeacherScores, width: int) -> tuple[Tensor, Tensor, float]:
    """Return factors whose products are nearest to the teacher's scores.

    For a teacher with vectors the result is exact, by the SVD of the product of the roots of their Gram matrices. For
    any other it comes from a randomised subspace iteration over its scores (Halko et al., "Finding structure with
    randomness", SIAM Review 2011) with a fixed seed, in blocks of queries. The pads are left out.

    Args:
        teacher: the scores.
        width: width of the factors. It is less than the width of the teacher's own vectors, and at most the smaller of
            the numbers of queries and items.

    Returns:
        query vectors float32 ``[n_queries, width]``, item vectors float32 ``[n_items, width]``, and the share of the
        scores' sum of squares that they keep.

    Raises:
        ConfigError: the width is not possible.
    """
    vectors = teacher.embeddings()
    most = (
        min(teacher.n_queries, teacher.n_items) - 1
        if vectors is None
        else min(vectors[1].shape[1], *map(len, vectors)) - 1
    )
    check_width(width, most, teacher.name)
    return _of_scores(teacher, width) if vectors is None else _of_vectors(*vectors, width)


def check_width(width: int, most: int, name: str) -> None:
    """Refuse a width that a teacher's scores cannot be truncated to (ConfigError)."""
    if not 1 <= width <= most:
        raise ConfigError(
            f"teacher_svd={width} is not possible with {name}: expected an integer from 1 to "
            f"{most}. Try --teacher_svd={most}"
        )


def _of_vectors(queries: Tensor, items: Tensor, width: int) -> tuple[Tensor, Tensor, float]:
    (root_q, inverse_q), (root_v, inverse_v) = _roots(queries), _roots(items)
    left, values, right = torch.linalg.svd(root_q @ root_v)
    half = values[:width].sqrt()
    maps = (inverse_q @ left[:, :width] * half, inverse_v @ right[:width].T * half)
    tables = [_mapped(table, to.float()) for table, to in zip((queries, items), maps, strict=True)]
    squares = values.square()
    return tables[0], tables[1], float(squares[:width].sum() / squares.sum())


def _roots(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the root of a table's Gram matrix and the root's pseudo-inverse.

    Both are float64 ``[d, d]``. The row of the pad is left out.
    """
    gram = torch.zeros(table.shape[1], table.shape[1], dtype=torch.float64, device=table.device)
    for rows in table[1:].split(ROWS):
        gram += rows.double().T @ rows.double()
    values, basis = torch.linalg.eigh(gram)
    values = values.clamp(min=0).masked_fill(values < values[-1] * NEGLIGIBLE, 0).sqrt()
    inverse = torch.where(values > 0, 1 / values, 0)
    return basis * values @ basis.T, basis * inverse @ basis.T


def _mapped(table: Tensor, to: Tensor) -> Tensor:
    result = torch.empty(len(table), to.shape[1], device=table.device)
    for start in range(0, len(table), ROWS):
        result[start : start + ROWS] = table[start : start + ROWS].float() @ to
    result[0] = 0  # the pad
    return result


def _of_scores(teacher: TeacherScores, width: int) -> tuple[Tensor, Tensor, float]:
    columns = min(width + EXTRA, teacher.n_queries - 1, teacher.n_items - 1)
    basis = torch.randn(teacher.n_items, columns, generator=torch.Generator().manual_seed(0))
    for _ in range(ROUNDS):
        following = torch.zeros_like(basis)
        for _, scores in _rows(teacher):
            following += scores.T @ (scores @ basis)
        basis = torch.linalg.qr(following).Q
    products, total = torch.zeros(teacher.n_queries, columns), 0.0
    for rows, scores in _rows(teacher):
        products[rows] = scores @ basis
        total += float(scores.double().square().sum())
    left, values, right = torch.linalg.svd(products, full_matrices=False)
    half = values[:width].sqrt()
    return (
        left[:, :width] * half,
        basis @ right[:width].T * half,
        float(values[:width].double().square().sum()) / max(total, 1e-300),
    )


def _rows(teacher: TeacherScores) -> Iterator[tuple[slice, Tensor]]:
    """Yield the scores of consecutive queries without the pads."""
    for rows in blocks(teacher.n_queries - 1, teacher.n_items):
        queries = torch.arange(rows.start + 1, rows.stop + 1)
        scores = teacher.full(queries).clone()
        scores[:, 0] = 0
        yield slice(rows.start + 1, rows.stop + 1), scores
