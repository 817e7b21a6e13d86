"""Expert networks followed by a graph filter, evaluated for some rows of the filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from recbole_kd.distiller.expert_networks import linear_start, rows_at_a_time
from recbole_kd.losses.embedding import drop_units, kept_at_random, mask_units
from recbole_kd.ops.threads import torch_on_one_thread


@dataclass(frozen=True)
class FilterRows:
    """Rows of a sparse matrix, concatenated.

    Attributes:
        columns: int64 ``[m]``.
        weights: float32 ``[m]``.
        starts: int64 ``[n]``, first entry of each row.
    """

    columns: Tensor
    weights: Tensor
    starts: Tensor

    def times(self, table: Tensor) -> Tensor:
        """Return the product with a table, float ``[N, d]`` -> ``[n, d]``."""
        return F.embedding_bag(self.columns, table, self.starts, mode="sum", per_sample_weights=self.weights)

    def transposed(self, n_columns: int) -> FilterRows:
        """Return the transposed matrix, with ``n_columns`` rows."""
        sizes = torch.bincount(self.columns, minlength=n_columns)
        row = torch.zeros_like(self.columns)
        row[self.starts[1:]] = 1  # no row is empty, because each entity is its own neighbour
        order = torch.argsort(self.columns, stable=True)
        return FilterRows(row.cumsum(0)[order], self.weights[order], sizes.cumsum(0) - sizes)


class FilteredExperts(nn.Module):
    r"""The mean of expert networks, followed by the graph filter.

    The E networks are :math:`d_s \to d_t \to d_t` with dropout before each layer. The filter and the second layer are
    both linear. The filter is applied to the hidden units, so that the wide second layer runs only on the batch's
    entities and not on their neighbours.

    Args:
        n_experts: E.
        width_in, width_out: d_s and d_t.
        dropout: share of units dropped.
        generator: source of the initial weights, on the CPU.
    """

    def __init__(
        self, n_experts: int, width_in: int, width_out: int, dropout: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.n_experts, self.dropout = n_experts, dropout
        self.weight_1, self.bias_1 = linear_start(n_experts, width_in, width_out, generator)
        self.weight_2, self.bias_2 = linear_start(n_experts, width_out, width_out, generator)

    def forward(self, vectors: Tensor, rows: FilterRows, generator: torch.Generator) -> Tensor:
        """Return rows of H P(S).

        Args:
            vectors: float ``[N, d_s]``, student vectors of the entities that H's rows name.
            rows: n rows of H, whose columns are rows of ``vectors``.
            generator: source of the dropout.

        Returns:
            float ``[n, d_t]``.
        """
        dropout = self.dropout if self.training else 0.0
        row_sums = rows.times(vectors.new_ones(len(vectors), 1))
        result = row_sums @ self.bias_2.mean(dim=0, keepdim=True)
        scaled = FilterRows(rows.columns, rows.weights / ((1 - dropout) * self.n_experts), rows.starts)
        back = scaled.transposed(len(vectors))
        layers = (self.weight_1, self.bias_1, self.weight_2)
        # unbind: each layer's gradient is not written into a table of zeros of its own
        for weight_1, bias_1, weight_2 in zip(*(layer.unbind() for layer in layers), strict=True):
            inputs = vectors
            if dropout:
                kept = kept_at_random((len(vectors), vectors.shape[1]), 1 - dropout, generator)
                inputs = vectors * (kept.view(torch.uint8) / (1 - dropout))
            hidden = _FilteredHidden.apply(inputs, weight_1, bias_1, scaled, back, dropout, generator)
            result = torch.addmm(result, hidden, weight_2)
        return result


class _FilteredHidden(torch.autograd.Function):
    """H drop(relu(x W + b)), where dropped units are not compensated by scaling.

    Shapes: x ``[N, d_s]``, W ``[d_s, h]``, b ``[h]``, H ``[n, N]`` -> ``[n, h]``. For the backward pass one byte per
    unit is kept (whether it is alive), not the unit itself.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: FilterRows,
        back: FilterRows,
        dropout: float,
        generator: torch.Generator,
    ) -> Tensor:
        hidden = inputs.new_empty(len(inputs), len(bias))
        alive = torch.empty_like(hidden, dtype=torch.bool)
        step = rows_at_a_time(len(bias), inputs.device)
        for start in range(0, len(inputs), step):
            part = slice(start, start + step)
            torch.addmm(bias, inputs[part], weight, out=hidden[part])
            alive[part] = drop_units(hidden[part], dropout, generator)
        ctx.save_for_backward(inputs, weight, alive, back.columns, back.weights, back.starts)
        return rows.times(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, alive, columns, weights, starts = ctx.saved_tensors
        grad = grad.contiguous()
        d_inputs, d_weight, d_bias = (
            torch.empty_like(inputs),
            torch.zeros_like(weight),
            weight.new_zeros(weight.shape[1]),
        )
        step = rows_at_a_time(weight.shape[1], inputs.device)
        firsts = [*starts[::step].tolist(), len(columns)]
        for block, start in enumerate(range(0, len(inputs), step)):
            part, entries = slice(start, start + step), slice(firsts[block], firsts[block + 1])
            rows = FilterRows(columns[entries], weights[entries], starts[part] - firsts[block])
            d_hidden = mask_units(rows.times(grad), alive[part])
            d_weight.addmm_(inputs[part].T, d_hidden)
            # These two sum in an order that depends on the number of threads.
            with torch_on_one_thread(grad.device.type == "cpu"):
                d_bias += d_hidden.sum(dim=0)
                torch.mm(d_hidden, weight.T, out=d_inputs[part])
        return d_inputs, d_weight, d_bias, None, None, None, None
