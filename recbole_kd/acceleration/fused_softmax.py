"""Softmax loss over all items for sequential models on a CPU; it stores only its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from recbole_kd.ops import compiled


def fuse_softmax(loss: nn.CrossEntropyLoss) -> None:
    """Make a model's softmax over all items compute with :func:`softmax_loss`, in place.

    It must have torch's default options; otherwise it stays unchanged. The module, with its hooks, stays torch's:
    only its function changes. The loss is the same up to rounding.
    """
    if _is_plain(loss):
        loss.forward = softmax_loss  # type: ignore[assignment, method-assign]


def _is_plain(loss: nn.CrossEntropyLoss) -> bool:
    """Test whether the loss has torch's default options."""
    return loss.weight is None and loss.reduction == "mean" and loss.label_smoothing == 0.0 and loss.ignore_index < 0


def softmax_loss(scores: Tensor, targets: Tensor) -> Tensor:
    r"""Return the loss of ``nn.CrossEntropyLoss()``, a mean over rows.

    The mean is over :math:`\log\sum_j e^{s_j} - s_{target}`.

    torch makes log-probabilities, one-hot gradients and two more tensors of the size of the scores. For float32 scores
    on a CPU with finite maxima, and with the extra ``fast``, a compiled kernel makes only the gradient. All other
    scores, and invalid inputs, go to torch.

    Args:
        scores: float ``[B, n_items]``. targets: int64 ``[B]``, in [0, n_items).

    Returns:
        float ``[]``, differentiable once in scores.
    """
    found = compiled.softmax_sums(scores.detach()) if _names_a_column_a_row(targets, scores) else None
    if found is None:
        return cross_entropy(scores, targets)
    result: Tensor = _SoftmaxLoss.apply(scores, targets, *found)
    return result


def _names_a_column_a_row(targets: Tensor, scores: Tensor) -> bool:
    """Test the conditions that the kernel does not check itself."""
    if scores.device.type != "cpu" or scores.dim() != 2 or not scores.is_contiguous():
        return False
    if targets.shape != scores.shape[:1] or targets.dtype != torch.int64 or not len(targets):
        return False
    return int(targets.min()) >= 0 and int(targets.max()) < scores.shape[1]


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, targets: Tensor, tops: Tensor, sums: Tensor) -> Tensor:
        ctx.save_for_backward(scores, targets, tops, sums)
        of_targets = scores.gather(1, targets.unsqueeze(1)).squeeze(1)
        return (sums.log() - (of_targets - tops)).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        scores, targets, tops, sums = ctx.saved_tensors
        return (
            compiled.softmax_slopes(scores.detach(), tops, sums, targets, float(grad) / len(scores)),
            None,
            None,
            None,
        )
