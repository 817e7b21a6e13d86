"""The ratio of the gradient norms of weighted KD loss and base loss on a batch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def gradient_norm(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the 2-norm of a loss's gradient over all parameters, float32 ``[]``.

    The graph is kept for the training step.

    Args:
        loss: ``[]``.
        parameters: the parameters. Only those that require a gradient count; the loss need not depend on each.
    """
    if not loss.requires_grad:
        return torch.zeros((), device=loss.device)
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
    dense = [g.coalesce().values() if g.is_sparse else g for g in gradients if g is not None]
    if not dense:
        return torch.zeros((), device=loss.device)
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.float()) for g in dense]))


def gradient_ratio(base: Tensor, kd: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the norm of ``kd``'s gradient over that of ``base``, float32 ``[]``.

    It is inf if ``base`` has no gradient.

    Args:
        base: the base loss, ``[]``.
        kd: the weighted KD loss, ``[]``.
        parameters: see :func:`gradient_norm`.
    """
    wanted = list(parameters)
    return gradient_norm(kd, wanted) / gradient_norm(base, wanted)
