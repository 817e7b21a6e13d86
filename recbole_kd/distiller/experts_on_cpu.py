"""Expert networks on a CPU: the pairs of row and expert that count, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_kd.ops.threads import n_threads, side_by_side, torch_on_one_thread

ROWS = 512
"""Pairs of one expert in one matrix product: its layer and their vectors fit a core's cache together."""


class ChosenExperts(torch.autograd.Function):
    r"""The weighted sum of the chosen experts of each row.

    It is :math:`\sum_e z_e (relu(x W_{1e} + b_{1e}) W_{2e} + b_{2e})`.

    Forwards, one thread computes a part of the rows; backwards, one thread computes an expert. Parts depend on the
    input alone, so the bits do not depend on the number of threads. Hidden layers are computed again in the backward
    pass. The choice of an expert that is not chosen for a row has no gradient.

    Shapes: x ``[n, d_s]``, z ``[n, E]``, W_1 ``[E, d_s, h]``, b_1 ``[E, h]``, W_2 ``[E, h, d_t]``, b_2 ``[E, d_t]``,
    chosen bool ``[n, E]`` -> ``[n, d_t]``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        selection: Tensor,
        weight_1: Tensor,
        bias_1: Tensor,
        weight_2: Tensor,
        bias_2: Tensor,
        chosen: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(vectors, selection, weight_1, bias_1, weight_2, bias_2, chosen)
        n, n_experts = selection.shape
        with torch_on_one_thread():
            out = (selection * chosen.view(torch.uint8)) @ bias_2
            pairs = chosen.sum(dim=0).tolist()

        def work(part: slice) -> None:
            inputs, shares, own, mask = vectors[part], selection[part], out[part], chosen[part]
            for e in range(n_experts):
                rows = slice(None) if pairs[e] == n else mask[:, e].nonzero().squeeze(1)
                hidden = (
                    torch.addmm(bias_1[e], _taken(inputs, rows), weight_1[e]).relu_().mul_(shares[rows, e].unsqueeze(1))
                )
                if isinstance(rows, slice):
                    own.addmm_(hidden, weight_2[e])
                elif len(rows):
                    own.index_add_(0, rows, hidden @ weight_2[e])

        side_by_side(work, list(_parts(n, _rows_of_a_part(n, sum(pairs), n_experts))), n_threads())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        vectors, selection, weight_1, bias_1, weight_2, bias_2, chosen = ctx.saved_tensors
        grad = grad.contiguous()
        d_weight_1, d_bias_1, d_weight_2 = (torch.zeros_like(t) for t in (weight_1, bias_1, weight_2))
        with torch_on_one_thread():
            expert, row = chosen.T.nonzero().unbind(1)
            d_bias_2 = (selection * chosen.view(torch.uint8)).T @ grad
            d_selection = (grad @ bias_2.T).mul_(chosen.view(torch.uint8))
        d_inputs = vectors.new_empty(len(row), vectors.shape[1]) if ctx.needs_input_grad[0] else None

        def work(e: int, pairs: slice) -> None:
            rows = slice(pairs.start - e * len(grad), pairs.stop - e * len(grad)) if whole else row[pairs]
            inputs, own, shares = _taken(vectors, rows), _taken(grad, rows), selection[rows, e].unsqueeze(1)
            hidden = torch.addmm(bias_1[e], inputs, weight_1[e]).relu_()
            d_hidden = own @ weight_2[e].T
            d_selection[rows, e] += torch.linalg.vecdot(d_hidden, hidden)
            torch.ops.aten.threshold_backward.grad_input(d_hidden, hidden, 0, grad_input=d_hidden).mul_(shares)
            d_weight_2[e].addmm_(hidden.mul_(shares).T, own)
            d_weight_1[e].addmm_(inputs.T, d_hidden)
            d_bias_1[e] += d_hidden.sum(dim=0)
            if d_inputs is not None:
                torch.mm(d_hidden, weight_1[e].T, out=d_inputs[pairs])

        whole = len(row) == chosen.numel()
        _by_expert(work, expert, len(bias_2))
        d_vectors = None if d_inputs is None else _summed(d_inputs, row, len(vectors), whole)
        return d_vectors, d_selection, d_weight_1, d_bias_1, d_weight_2, d_bias_2, None


def _parts(n: int, step: int, start: int = 0) -> Iterator[slice]:
    """Yield slices of ``step`` numbers, from ``start`` to ``n``."""
    return (slice(first, min(first + step, n)) for first in range(start, n, step))


def _rows_of_a_part(n: int, pairs: int, n_experts: int) -> int:
    """Return the rows of a part: about ROWS pairs of each expert, and at least two parts."""
    return max(1, min(ROWS * n_experts * n // max(pairs, 1), (n + 1) // 2))


def _taken(table: Tensor, rows: Tensor | slice) -> Tensor:
    """Return rows of a table, ``[n, d]``; index_select is three times as fast as an index in brackets."""
    return table[rows] if isinstance(rows, slice) else table.index_select(0, rows)


def _by_expert(work: Callable[[int, slice], None], expert: Tensor, n_experts: int) -> None:
    """Call ``work`` with each expert and slices of its pairs: int64 ``[pairs]``, sorted.

    As many experts are done at once as torch has threads, each on one thread.
    """
    ends = torch.bincount(expert, minlength=n_experts).cumsum(0).tolist()

    def of_expert(number: slice) -> None:
        e = number.start
        for pairs in _parts(ends[e], ROWS, ends[e - 1] if e else 0):
            work(e, pairs)

    side_by_side(of_expert, list(_parts(n_experts, 1)), min(n_threads(), n_experts))


def _summed(parts: Tensor, row: Tensor, n: int, whole: bool) -> Tensor:
    """Return the sums of the parts of each row, ``[pairs, d]`` -> ``[n, d]``.

    If ``whole`` every row has a part of every expert.
    """
    with torch_on_one_thread():
        if whole and n:
            return parts.view(-1, n, parts.shape[1]).sum(dim=0)
        return parts.new_zeros(n, parts.shape[1]).index_add_(0, row, parts)
