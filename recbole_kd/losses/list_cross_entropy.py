"""Cross-entropies on lists of items, from vectors in one compiled pass or in plain torch.

Both give the same sums. No RecBole import.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from recbole_kd.losses.cross_entropy import masked_log_softmax, teacher_probabilities
from recbole_kd.ops import compiled, compiled_lists
from recbole_kd.ops.threads import in_halves, n_threads

PAIRS_PER_THREAD = 2**15
"""A second thread pays from twice this many query-item pairs."""

ROWS_AT_A_TIME = 2**16
"""Queries whose teacher softmax is computed at once; it needs several temporary tables."""


@dataclass
class Lists:
    r"""Each query's list, cut into sublists: :math:`\sum_p s_{up} L_{CE}(u; J_{up})`.

    RCE-KD, Eq. 9, has two sublists.

    Attributes:
        chosen: int64 ``[U, n]``, item ids. valid: bool ``[U, n]``, the items that count.
        target: float32 ``[U, n]``, the teacher's softmax over the valid items of each sublist; 0 elsewhere.
        ends: end column of each sublist. shares: float32 ``[U, P]``, weights of the sublists.
    """

    chosen: Tensor
    valid: Tensor
    target: Tensor
    ends: list[int]
    shares: Tensor

    @classmethod
    def of(
        cls, chosen: Tensor, teacher: Tensor, valid: Tensor, ends: list[int], shares: Tensor | None, temperature: float
    ) -> Lists:
        """Build from the teacher's scores, float ``[U, n]``; ``shares`` None means all 1."""
        target = torch.empty_like(teacher)
        for start in range(0, len(teacher), ROWS_AT_A_TIME):
            rows = slice(start, start + ROWS_AT_A_TIME)
            for part in _parts(ends):
                target[rows, part] = teacher_probabilities(teacher[rows, part], valid[rows, part], temperature)
        weights = torch.ones(len(chosen), len(ends), device=chosen.device) if shares is None else shares
        return cls(chosen, valid, target, ends, weights)

    @cached_property
    def counted(self) -> tuple[Tensor, Tensor, Tensor]:
        """The items that count, one after the other, for the compiled pass.

        The ends of the sublists, int64 ``[U, P + 1]``, the items, int32 ``[N]``, and their targets, float32 ``[N]``.
        """
        sizes = torch.stack([self.valid[:, part].sum(1) for part in _parts(self.ends)], dim=1)
        ends = sizes.flatten().cumsum(0).view_as(sizes)
        first = torch.cat([ends.new_zeros(1), ends[:-1, -1]])
        starts = torch.cat([first.unsqueeze(1), ends], dim=1)
        return starts, self.chosen[self.valid].to(torch.int32), self.target[self.valid]


def _parts(ends: list[int]) -> list[slice]:
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def cross_entropy_of_scores(student: Tensor, queries: Tensor, lists: Lists, temperature: float = 1.0) -> Tensor:
    """Return the weighted sum over the sublists, float ``[B]``.

    Args:
        student: float ``[B, n]``, scores of the lists. queries: int64 ``[B]``, rows of ``lists``.
    """
    valid, target, shares = lists.valid[queries], lists.target[queries], lists.shares[queries]
    total = student.new_zeros(len(queries))
    for p, part in enumerate(_parts(lists.ends)):
        log_student = masked_log_softmax(student[:, part] / temperature, valid[:, part])
        total = total - shares[:, p] * (target[:, part] * log_student).sum(1)
    return total


def cross_entropy_of_vectors(
    vectors: Tensor, items: Tensor, queries: Tensor, weights: Tensor, lists: Lists, temperature: float = 1.0
) -> Tensor | None:
    """Return the weighted sum of :func:`cross_entropy_of_scores` of dot products.

    One compiled pass computes the scores, their softmax and the gradients of both tables; items that do not count take
    no time. The plain path's sums are in another order: losses agree to 2e-6, gradients to 1e-4 of their size.

    Args:
        vectors: float32 ``[B, d]``, of the queries. items: float32 ``[n_items, d]``. queries: int64 ``[B]``.
        weights: float32 ``[B]``, constants.

    Returns:
        float32 ``[]``, differentiable once in vectors and items; None if the kernel does not apply.
    """
    if compiled.kernels() is None or vectors.device.type != "cpu" or not vectors.dtype == items.dtype == torch.float32:
        return None
    short = max(0, compiled_lists.least_width() - items.shape[1])
    vectors, items = (pad(table, (0, short)) if short else table for table in (vectors, items))
    result: Tensor = _Listed.apply(
        vectors.contiguous(), items.contiguous(), queries.contiguous(), weights, lists, 1.0 / temperature
    )
    return result


class _Listed(torch.autograd.Function):
    """The compiled pass, over two fixed halves of the rows: gradients are summed in one order."""

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, items: Tensor, queries: Tensor, weights: Tensor, lists: Lists, factor: float
    ) -> Tensor:
        losses, d_vectors, d_items = torch.empty(len(queries)), torch.empty_like(vectors), torch.empty_like(items)
        starts, chosen, target = (table.numpy() for table in lists.counted)
        shares, sums = lists.shares.contiguous().numpy(), compiled_lists.zero_tables(items)
        of_rows = [table.detach().numpy() for table in (vectors, queries, weights.contiguous(), losses, d_vectors)]

        def work(half: slice) -> None:
            own, rows, factors, found, d_own = (table[half] for table in of_rows)
            compiled_lists.listed_kernels().listed_cross_entropy(
                own, items.detach().numpy(), rows, starts, chosen, target, shares, factors, np.float32(factor), found,
                d_own, sums[int(half.start > 0)],
            )  # fmt: skip

        both = n_threads() > 1 and len(queries) * lists.chosen.shape[1] >= 2 * PAIRS_PER_THREAD
        in_halves(work, len(queries), both)
        compiled_lists.take_sum(*sums, d_items, both)
        ctx.save_for_backward(d_vectors, d_items)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        d_vectors, d_items = ctx.saved_tensors
        if float(grad) != 1:
            d_vectors, d_items = d_vectors * grad, d_items * grad
        return d_vectors, d_items, None, None, None, None
