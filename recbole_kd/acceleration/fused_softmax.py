"""The softmax over all items of RecBole's sequential models, on a CPU with its gradient as the only tensor that it makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from recbole_kd.ops import compiled


def fuse_softmax(loss: nn.CrossEntropyLoss) -> None:
    """Let a model's softmax over all items compute with :func:`softmax_loss`, in place, if it has torch's default options.

    It stays torch's module, hooks and all: only the function behind it is another, to the same loss up to rounding.
    """
    if _is_plain(loss):
        loss.forward = softmax_loss  # type: ignore[assignment, method-assign]


def _is_plain(loss: nn.CrossEntropyLoss) -> bool:
    """Has it torch's default options?"""
    return loss.weight is None and loss.reduction == "mean" and loss.label_smoothing == 0.0 and loss.ignore_index < 0


def softmax_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """What ``nn.CrossEntropyLoss()`` returns: the mean of :math:`\\log \\sum_j e^{s_j} - s_{target}` over rows.

    torch makes the log-probabilities, one-hot gradients and two more tensors of the size of the scores. Of float32
    scores on a CPU, with the extra ``fast`` and finite maxima, a compiled kernel makes the gradient alone; other scores
    are torch's affair, as is every refusal.

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
    """What the kernel takes unchecked."""
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
