"""Expert networks: small MLPs from the student's space to the teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recbole_kd.distiller.experts_on_cpu import ChosenExperts

NEGLIGIBLE = 2.0**-24
"""An expert with a smaller weight changes nothing in float32 and is not evaluated."""

HIDDEN_BYTES = {"cpu": 4 * 2**20}
"""Bytes of hidden units held at a time, about a core's cache. Other devices use OTHER_HIDDEN_BYTES."""

OTHER_HIDDEN_BYTES = 256 * 2**20


def rows_at_a_time(width: int, device: torch.device) -> int:
    """Return how many rows of ``width`` float32 hidden units are computed at a time."""
    return max(64, HIDDEN_BYTES.get(device.type, OTHER_HIDDEN_BYTES) // (4 * width))


def linear_start(n: int, wide_in: int, wide_out: int, generator: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
    """Initialise n linear layers as nn.Linear does.

    Returns:
        weights ``[n, wide_in, wide_out]`` and biases ``[n, wide_out]``.
    """
    bound = wide_in**-0.5
    shapes = ((n, wide_in, wide_out), (n, wide_out))
    weight, bias = (torch.empty(shape).uniform_(-bound, bound, generator=generator) for shape in shapes)
    return nn.Parameter(weight), nn.Parameter(bias)


class ExpertMixture(nn.Module):
    r"""A mixture of expert networks with a selection per entity.

    The E networks are :math:`d_s \to (d_s + d_t)/2 \to d_t` with ReLU. The selection is a linear layer on the teacher's
    vector. The experts' outputs ``[n, E, d_t]`` are never stored. On a CPU only pairs of row and expert are evaluated
    whose weight counts. Elsewhere :math:`\sum_e z_e (W_{2e} h_e + b_{2e})` is one product of the weighted hidden
    layers ``[n, E h]`` with the stacked ``[E h, d_t]``. Hidden layers are computed for some rows at a time, and again
    in the backward pass.

    Args:
        n_experts: E.
        width_in, width_out: d_s and d_t.
        generator: source of the initial weights, on the CPU.
    """

    def __init__(self, n_experts: int, width_in: int, width_out: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n_experts = n_experts
        self.hidden = max(1, (width_in + width_out) // 2)
        self.weight_1, self.bias_1 = linear_start(n_experts, width_in, self.hidden, generator)
        self.weight_2, self.bias_2 = linear_start(n_experts, self.hidden, width_out, generator)
        weight, bias = linear_start(1, width_out, n_experts, generator)
        self.choice_weight, self.choice_bias = nn.Parameter(weight.detach()[0]), nn.Parameter(bias.detach()[0])

    def logits(self, teacher: Tensor) -> Tensor:
        """Return the logits of the selection: teacher vectors ``[n, d_t]`` -> ``[n, E]``."""
        return torch.addmm(self.choice_bias, teacher, self.choice_weight)

    def forward(self, vectors: Tensor, selection: Tensor) -> Tensor:
        """Mix the experts' outputs: vectors ``[n, d_s]``, weights ``[n, E]`` -> ``[n, d_t]``."""
        # the question which are chosen would wait for the device, and code that is being compiled has no answer
        if selection.device.type != "cpu" or torch.compiler.is_compiling():
            return self._all(vectors, selection)
        chosen = ~(selection.detach() <= NEGLIGIBLE)  # NaN counts as chosen, so that it propagates
        weights = (self.weight_1, self.bias_1, self.weight_2, self.bias_2)
        found: Tensor = ChosenExperts.apply(vectors, selection, *weights, chosen)
        return found

    def _all(self, vectors: Tensor, selection: Tensor) -> Tensor:
        """Mix the outputs of all experts, whatever their weights."""
        stacked = self.weight_1.transpose(0, 1).flatten(1)
        mixed: Tensor = _MixedHidden.apply(
            vectors, selection, stacked, self.bias_1.flatten(), self.weight_2.flatten(0, 1)
        )
        return mixed + selection @ self.bias_2


class _MixedHidden(torch.autograd.Function):
    r"""The rows :math:`(z \otimes relu(x W_1 + b_1)) W_2`, computed in blocks of rows, for a GPU.

    Shapes: x ``[n, d_s]``, z ``[n, E]``, W_1 ``[d_s, E h]``, b_1 ``[E h]``, W_2 ``[E h, d_t]`` -> ``[n, d_t]``.
    """

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, selection: Tensor, weight_1: Tensor, bias_1: Tensor, weight_2: Tensor
    ) -> Tensor:
        ctx.save_for_backward(vectors, selection, weight_1, bias_1, weight_2)
        out = vectors.new_empty(len(vectors), weight_2.shape[1])
        step = rows_at_a_time(len(bias_1), vectors.device)
        for start in range(0, len(vectors), step):
            rows = slice(start, start + step)
            hidden = torch.addmm(bias_1, vectors[rows], weight_1).relu_()
            torch.mm(_weighted(hidden, selection[rows]), weight_2, out=out[rows])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        vectors, selection, weight_1, bias_1, weight_2 = (t.detach() for t in ctx.saved_tensors)
        grad = grad.contiguous()
        d_vectors = torch.empty_like(vectors) if ctx.needs_input_grad[0] else None
        d_selection = torch.empty_like(selection)
        d_weight_1, d_bias_1, d_weight_2 = (torch.zeros_like(t) for t in (weight_1, bias_1, weight_2))
        step = rows_at_a_time(len(bias_1), vectors.device)
        for start in range(0, len(vectors), step):
            rows = slice(start, start + step)
            hidden = torch.addmm(bias_1, vectors[rows], weight_1).relu_()
            d_hidden = grad[rows] @ weight_2.T
            shape = (len(hidden), selection.shape[1], -1)
            d_selection[rows] = torch.linalg.vecdot(d_hidden.view(shape), hidden.view(shape))
            # A uint8 view multiplies several times faster than a bool.
            _weighted(d_hidden, selection[rows]).mul_((hidden > 0).view(torch.uint8))
            d_weight_2.addmm_(_weighted(hidden, selection[rows]).T, grad[rows])
            d_weight_1.addmm_(vectors[rows].T, d_hidden)
            d_bias_1 += d_hidden.sum(dim=0)
            if d_vectors is not None:
                torch.mm(d_hidden, weight_1.T, out=d_vectors[rows])
        return d_vectors, d_selection, d_weight_1, d_bias_1, d_weight_2


def _weighted(hidden: Tensor, selection: Tensor) -> Tensor:
    """Multiply each expert's units ``[b, E h]`` by its weight ``[b, E]``, in place."""
    hidden.view(len(hidden), selection.shape[1], -1).mul_(selection.unsqueeze(2))
    return hidden
