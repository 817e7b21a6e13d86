"""Cross-entropies on lists of items, from vectors in one compiled pass or in plain torch.

Both give the same sums. No RecBole import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_kd.losses.cross_entropy import masked_log_softmax, teacher_probabilities
from recbole_kd.ops import compiled
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
    vectors: Tensor, items: Tensor, queries: Tensor, lists: Lists, temperature: float = 1.0
) -> Tensor | None:
    """Return :func:`cross_entropy_of_scores` of dot products, in one compiled pass.

    Args:
        vectors: float32 ``[B, d]``, of the queries. items: float32 ``[n_items, d]``. queries: int64 ``[B]``.

    Returns:
        float32 ``[B]``, differentiable in vectors and items; None if the kernel does not apply.
    """
    if compiled.kernels() is None or vectors.device.type != "cpu" or not vectors.dtype == items.dtype == torch.float32:
        return None
    result: Tensor = _Listed.apply(
        vectors.contiguous(), items.contiguous(), queries.contiguous(), lists, 1.0 / temperature
    )
    return result


class _Listed(torch.autograd.Function):
    """The compiled pass, over two fixed halves of the rows: gradients are summed in one order."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, items: Tensor, queries: Tensor, lists: Lists, factor: float) -> Tensor:
        loss, slopes = torch.empty(len(queries)), torch.empty(len(queries), lists.chosen.shape[1])
        tables = [t.contiguous().numpy() for t in (lists.chosen, lists.target, lists.valid)]
        ends, shares = torch.tensor(lists.ends).numpy(), lists.shares.contiguous().numpy()

        def work(half: slice) -> None:
            compiled.kernels().listed_cross_entropy(
                vectors.detach()[half].numpy(), items.detach().numpy(), queries[half].numpy(), *tables, ends, shares,
                np.float32(factor), loss.numpy()[half], slopes.numpy()[half],
            )  # fmt: skip

        in_halves(work, len(queries), _worth_two(slopes))
        ctx.save_for_backward(vectors, items, queries, lists.chosen, slopes)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        vectors, items, queries, chosen, slopes = (t.detach() for t in ctx.saved_tensors)
        weights, chosen = grad.contiguous().numpy(), chosen.contiguous().numpy()
        d_vectors = torch.empty_like(vectors)
        sums = torch.zeros_like(items), _scratch(items)

        def work(half: slice) -> None:
            compiled.kernels().listed_gradients(
                vectors[half].numpy(), items.numpy(), queries[half].numpy(), chosen, slopes[half].numpy(),
                weights[half], d_vectors[half].numpy(), sums[int(half.start > 0)].numpy(),
            )  # fmt: skip

        in_halves(work, len(queries), _worth_two(slopes))
        return d_vectors, sums[0].add_(sums[1]), None, None, None


def _worth_two(pairs: Tensor) -> bool:
    return n_threads() > 1 and pairs.numel() >= 2 * PAIRS_PER_THREAD


_kept: list[Tensor] = []


def _scratch(like: Tensor) -> Tensor:
    """Return zeros in memory that is used again.

    Fresh memory pages of a table's size cost more time than the sums that are written into them.
    """
    if not _kept or _kept[0].shape != like.shape:
        _kept[:] = [torch.empty_like(like)]
    return _kept[0].zero_()
