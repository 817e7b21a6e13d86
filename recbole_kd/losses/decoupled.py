"""Decoupled knowledge distillation of a list, and the divergence of pairs, in log space."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.losses.cross_entropy import masked_log_softmax


def decoupled_divergence(
    student: Tensor, teacher: Tensor, valid: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    r"""Return target and non-target KL(teacher || student) of a list (DKD).

    The target is the first column (Zhao et al., CVPR 2022, "DKD"). With :math:`b = (p_0, 1 - p_0)` from the softmax
    over the whole list and :math:`\hat p` the softmax over all columns but the target: TCKD = :math:`T^2 KL(b^T ||
    b^S)`, NCKD = :math:`T^2 KL(\hat p^T || \hat p^S)`.

    Args:
        student, teacher: float ``[R, n]`` scores. valid: bool ``[R, n]``, columns that count; the first always does.

    Returns:
        TCKD and NCKD, float ``[R]`` each; both 0 if only the target is valid.
    """
    rest = valid[:, 1:]
    alone = ~rest.any(dim=1)
    parts = []
    for scores in (student, teacher):
        scaled = scores / temperature
        target = scaled[:, 0]
        # log p_0 and log (1 - p_0) from one difference: exact even if one of them is close to 0
        others = scaled[:, 1:].masked_fill(~rest, -torch.inf).masked_fill(alone.unsqueeze(1), 0.0).logsumexp(dim=1)
        parts.append((target - others, masked_log_softmax(scaled[:, 1:], rest)))
    (student_margin, student_rest), (teacher_margin, teacher_rest) = parts
    target_part = binary_divergence(student_margin, teacher_margin).masked_fill(alone, 0.0)
    rest_part = (teacher_rest.exp() * (teacher_rest - student_rest)).masked_fill(~rest, 0.0).sum(dim=1)
    return temperature**2 * target_part, temperature**2 * rest_part


def binary_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Return KL(Bern(:math:`\sigma(m^T)`) || Bern(:math:`\sigma(m^S)`)), elementwise.

    Args:
        student, teacher: the margins m, float of any shape.
    """
    return torch.sigmoid(teacher) * (log_sigmoid(teacher) - log_sigmoid(student)) + torch.sigmoid(-teacher) * (
        log_sigmoid(-teacher) - log_sigmoid(-student)
    )


def log_sigmoid(margin: Tensor) -> Tensor:
    """Return log sigma(margin), finite at any finite margin."""
    return torch.nn.functional.logsigmoid(margin)


def positive_shares(teachers: Tensor, valid: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the weights of modalities: each one's share of the target's probability.

    Args:
        teachers: float ``[M, R, n]``, the target first. valid: bool ``[R, n]``.

    Returns:
        float ``[M, R]``, each row's M weights add up to 1.
    """
    logs = torch.stack([masked_log_softmax(scores / temperature, valid)[:, 0] for scores in teachers])
    return torch.softmax(logs, dim=0)
