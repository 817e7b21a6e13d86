"""Cross-entropies on lists of items, from vectors in one compiled pass or in plain torch.

Both give the same sums. No RecBole import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recbole_kd.losses.cross_entropy import masked_log_softmax, teacher_probabilities
from recbole_kd.ops import compiled_lists
from recbole_kd.ops.fused_loss import applies, fused_loss

ROWS_AT_A_TIME = 2**16
"""Queries whose teacher softmax is computed at once; it needs several temporary tables."""


@dataclass
class Lists:
    r"""Each query's list, cut into sublists: :math:`\sum_p s_{up} L_{CE}(u; J_{up})`.

    RCE-KD, Eq. 9, has two sublists.

    Attributes:
        chosen: int64 or int32 ``[U, n]``, item ids.
        teacher: the teacher's scores of them, float32 tables ``[U, m]`` that have n columns together.
        valid: bool ``[U, n]``, the items that count.
        ends: end column of each sublist. shares: float32 ``[U, P]``, weights of the sublists.
        temperature: that of the teacher's softmax.
    """

    chosen: Tensor
    teacher: Sequence[Tensor]
    valid: Tensor
    ends: list[int]
    shares: Tensor
    temperature: float

    @classmethod
    def of(
        cls,
        chosen: Tensor,
        teacher: Sequence[Tensor],
        valid: Tensor,
        ends: list[int],
        shares: Tensor | None,
        temperature: float,
    ) -> Lists:
        """Build from the attributes; ``shares`` None means all 1."""
        weights = torch.ones(len(chosen), len(ends), device=chosen.device) if shares is None else shares
        return cls(chosen, teacher, valid, ends, weights, temperature)

    @cached_property
    def target(self) -> Tensor:
        """The teacher's softmax over the valid items of each sublist, float32 ``[U, n]``; 0 elsewhere."""
        target = torch.empty(self.chosen.shape, dtype=self.teacher[0].dtype, device=self.chosen.device)
        for start in range(0, len(target), ROWS_AT_A_TIME):
            rows = slice(start, start + ROWS_AT_A_TIME)
            scores = torch.cat([table[rows] for table in self.teacher], dim=1)
            for part in _parts(self.ends):
                target[rows, part] = teacher_probabilities(scores[:, part], self.valid[rows, part], self.temperature)
        return target

    @cached_property
    def counted(self) -> tuple[Tensor, Tensor, Tensor]:
        """The items that count, one after the other, for the compiled pass.

        The ends of the sublists, int64 ``[U, P + 1]``, the items, int32 ``[N]``, and their targets, float32 ``[N]``,
        which agree with :attr:`target` to 1e-6 of their size.
        """
        found = compiled_lists.close_up(self.chosen, self.teacher, self.valid, self.ends, self.temperature)
        if found is not None:
            return found
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
    if not applies(vectors, items):
        return None
    starts, chosen, target = (table.numpy() for table in lists.counted)
    of_rows = [table.detach().contiguous().numpy() for table in (queries, weights)]
    shares, factor = lists.shares.contiguous().numpy(), np.float32(1.0 / temperature)

    def work(
        part: slice, own: np.ndarray, table: np.ndarray, losses: np.ndarray, d_own: np.ndarray, d_items: np.ndarray
    ) -> None:
        rows, factors = (values[part] for values in of_rows)
        compiled_lists.listed_kernels().listed_cross_entropy(
            own, table, rows, starts, chosen, target, shares, factors, factor, losses, d_own, d_items
        )

    return fused_loss(vectors, items, len(queries) * lists.chosen.shape[1], work)
