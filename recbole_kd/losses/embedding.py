"""Losses on embeddings: selection of experts, dropout, topology. No RecBole import.

``n`` rows are entities (users, items, or both); ``d_s`` and ``d_t`` are the widths of student and teacher.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from recbole_kd.ops import compiled
from recbole_kd.ops.threads import n_threads, side_by_side

FLOOR = 1e-10
"""Smallest probability of an expert before the noise, as published."""

TILE = 512
"""Rows and columns of one tile of cosines, small enough for a core's cache."""

GRAM_COLUMNS = 128
"""Columns of one block of a Gram matrix; only the upper blocks are computed."""


# -- experts
# -------------------------------------------------------------------------------------------------------------


def annealed_temperature(epoch: int, end: float, anneal: float, max_epoch: int) -> float:
    """Return the temperature of an epoch: ``end * anneal`` at epoch 0 (DE-RRD).

    It falls geometrically, reaches ``end`` at ``max_epoch`` and stays there.
    """
    return max(float(end * anneal ** (1 - epoch / max_epoch)), end)


def gumbel_noise(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Draw Gumbel(0, 1) noise, float32 ``[rows, columns]``, on the generator's device."""
    drawn = torch.empty(rows, columns, device=generator.device).exponential_(generator=generator)
    return -drawn.clamp_min_(torch.finfo(drawn.dtype).tiny).log_()


def gumbel_selection(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    r"""Return the Gumbel-softmax weights of the experts.

    They are the softmax of :math:`(\log(\alpha + 10^{-10}) + g)/\tau` with alpha = softmax(logits) and g the noise,
    computed in log space.

    Args:
        logits, noise: float ``[n, E]``. temperature: tau, down to 1e-10.

    Returns:
        float ``[n, E]``, each row with sum 1.
    """
    log_share = torch.log_softmax(logits, dim=-1)
    floor = torch.full((), FLOOR, device=logits.device, dtype=log_share.dtype).log()
    return torch.softmax((torch.logaddexp(log_share, floor) + noise) / temperature, dim=-1)


# -- dropout
# -------------------------------------------------------------------------------------------------------------


def kept_at_random(shape: tuple[int, ...], share: float, generator: torch.Generator) -> Tensor:
    """Draw independent booleans, True with probability ``share``: bool ``shape``.

    The probability is exact to 2^-16 and never below ``share``.
    """
    return (coins(math.prod(shape), generator) >= least_kept(share)).view(shape)


def coins(n: int, generator: torch.Generator) -> Tensor:
    """Draw 16 random bits each, int16 ``[n]``, on the generator's device.

    On a CPU they come from numpy's SFC64, which takes a fifth of the time of torch's own numbers; its seed is the
    generator's next number.
    """
    n_words = (n + 3) // 4
    if generator.device.type == "cpu":
        seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
        words = torch.from_numpy(np.random.SFC64(seed).random_raw(max(n_words, 1)).view(np.int64))
    else:
        words = torch.empty(n_words, dtype=torch.int64, device=generator.device)
        words.random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:n]


def least_kept(share: float) -> int:
    """Return the smallest of :func:`coins` that keeps, for a probability ``share`` of keeping."""
    return min(round((1 - share) * 2**16) - 2**15, 2**15 - 1)


def drop_units(units: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Set units that are not positive, and a random share of the others, to zero.

    Args:
        units: float ``[n, h]``, contiguous, changed in place. NaN stays NaN.
        dropout: share of units dropped. They are not compensated by scaling.
        generator: source of the choice.

    Returns:
        bool ``[n, h]``, True where a unit stays.
    """
    if not dropout:
        return _masked_by(units, units > 0)
    least, drawn = least_kept(1 - dropout), coins(units.numel(), generator).view(units.shape)
    alive = compiled.keep_units(units, drawn, least)
    return _masked_by(units, (units > 0) & (drawn >= least)) if alive is None else alive


def _masked_by(units: Tensor, alive: Tensor) -> Tensor:
    """Mask units in place, and return the mask."""
    mask_units(units, alive)
    return alive


def mask_units(units: Tensor, alive: Tensor) -> Tensor:
    """Multiply units, float ``[n, h]``, by bool ``[n, h]``, in place, and return them."""
    if not compiled.mask_units(units, alive):
        units.mul_(alive.view(torch.uint8))  # several times faster than with a bool
    return units


# -- topology
# ------------------------------------------------------------------------------------------------------------


def unit_rows(vectors: Tensor) -> Tensor:
    """Return the rows divided by their norm, float ``[n, d]``; a zero row stays zero."""
    return F.normalize(vectors, dim=-1, eps=1e-12)


def full_topology_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the squared Frobenius distance of both cosine matrices (FTD), ``[]``.

    No ``n x n`` matrix is needed: with unit rows S and T,
    :math:`\|SS^T - TT^T\|^2 = \|S^TS\|^2 + \|T^TT\|^2 - 2\|T^TS\|^2`, at a cost of :math:`n (d_s + d_t)^2`. The
    difference of large sums is exact to about 1e-6 of :math:`\|TT^T\|^2`; the gradient does not lose precision.

    Args:
        student: float ``[n, d_s]``. teacher: float ``[n, d_t]`` of unit rows, a constant.
    """
    own = unit_rows(student)
    teacher = teacher.detach()
    return (own.T @ own).square().sum() + gram_norm(teacher) - 2 * (teacher.T @ own).square().sum()


@torch.no_grad()
def gram_norm(rows: Tensor) -> Tensor:
    """Return the squared Frobenius norm of ``rows.T @ rows``, ``[]``, for float ``[n, d]``.

    The Gram matrix is symmetric, so blocks below the diagonal are not computed.
    """
    total = torch.zeros((), device=rows.device)
    for start in range(0, rows.shape[1], GRAM_COLUMNS):
        upper = rows[:, start : start + GRAM_COLUMNS].T @ rows[:, start:]
        total += 2 * upper.square().sum() - upper[:, :GRAM_COLUMNS].square().sum()
    return total


def grouped_topology_distance(student: Tensor, teacher: Tensor, groups: Tensor) -> Tensor:
    r"""Return the squared differences of cosines within groups, summed (HTD), ``[]``.

    The sum runs over all ordered pairs of one group whose teacher cosine is above 0. Pairs are visited group by
    group, in tiles on and above the diagonal. The gradient is accumulated in the same pass, so that no tile is kept.
    Elsewhere than on a CPU all pairs are visited, because the host would have to wait for the sizes of the groups.

    Args:
        student: float ``[n, d_s]``. teacher: float ``[n, d_t]``, a constant. groups: int64 ``[n]``.
    """
    result: Tensor
    if student.device.type != "cpu":
        result = _GroupedCosines.apply(unit_rows(student), unit_rows(teacher), groups)
        return result
    order = torch.argsort(groups, stable=True)
    sizes = torch.bincount(groups).tolist()
    result = _GroupedCosines.apply(unit_rows(student[order]), unit_rows(teacher[order]), sizes)
    return result


class _GroupedCosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, groups: Tensor | list[int]) -> Tensor:
        with torch.autocast(device_type=student.device.type, enabled=False):
            own, other = student.float(), teacher.float()
            if isinstance(groups, list):
                loss, gradient = _grouped_cosines(own, other, groups)
            else:
                loss, gradient = masked_cosines(own, other, groups)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None


def masked_cosines(student: Tensor, teacher: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of :func:`grouped_topology_distance` and its gradient in the student's rows.

    No size of a group is asked for. The cost is that of all pairs, in blocks of rows.

    Args:
        student, teacher: unit rows, float32 ``[n, d_s]`` and ``[n, d_t]``. groups: int64 ``[n]``.
    """
    loss, gradient = torch.zeros((), device=student.device), torch.empty_like(student)
    for start in range(0, len(student), TILE):
        rows = slice(start, start + TILE)
        cosine = teacher[rows] @ teacher.T
        counts = (cosine > 0) & (groups[rows].unsqueeze(1) == groups)
        difference = torch.addmm(cosine, student[rows], student.T, beta=-1).masked_fill_(~counts, 0.0)
        loss += difference.square().sum()
        gradient[rows] = 4 * (difference @ student)
    return loss, gradient


def _tiles(group: slice) -> Iterator[tuple[slice, slice]]:
    """Yield (rows, columns) of all tiles on and above the diagonal of a group's block."""
    for row in range(group.start, group.stop, TILE):
        for column in range(row, group.stop, TILE):
            yield slice(row, min(row + TILE, group.stop)), slice(column, min(column + TILE, group.stop))


def _grouped_cosines(student: Tensor, teacher: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient in the student's unit rows.

    Rows are sorted by group; ``sizes`` are the sizes of the groups. One thread computes a group, and the groups'
    losses are added in their order: the bits do not depend on the number of threads.
    """
    ends = list(accumulate(sizes))
    groups = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True) if size]
    losses = torch.zeros(len(groups), device=student.device)
    gradient = torch.zeros_like(student)
    number = {group.start: index for index, group in enumerate(groups)}

    def of_group(group: slice) -> None:
        losses[number[group.start]] = _cosines_within(student, teacher, group, gradient)

    if student.device.type == "cpu":
        side_by_side(of_group, sorted(groups, key=lambda group: group.start - group.stop), n_threads())
    else:
        for group in groups:
            of_group(group)
    return losses.sum(), gradient


def _cosines_within(student: Tensor, teacher: Tensor, group: slice, gradient: Tensor) -> Tensor:
    """Return the loss of one group, ``[]``, and add its gradient to ``gradient``."""
    loss = torch.zeros((), device=student.device)
    for rows, columns in _tiles(group):
        cosine = teacher[rows] @ teacher[columns].T
        difference = torch.addmm(cosine, student[rows], student[columns].T, beta=-1)
        difference.mul_((cosine > 0).view(torch.uint8))  # several times faster than with a bool mask
        flat = difference.view(-1)
        gradient[rows].addmm_(difference, student[columns], alpha=4)
        if rows.start == columns.start:
            loss += flat @ flat
        else:  # counts for the pair in the other order too
            loss += 2 * (flat @ flat)
            gradient[columns].addmm_(difference.T, student[rows], alpha=4)
    return loss


def group_means(vectors: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Return the mean of each group's rows, ``[n_groups, d]``; 0 for an empty group.

    Args:
        vectors: float ``[n, d]``. groups: int64 ``[n]``, in 0..n_groups-1.
    """
    sums = vectors.new_zeros(n_groups, vectors.shape[1]).index_add(0, groups, vectors)
    sizes = vectors.new_zeros(n_groups).index_add(0, groups, vectors.new_ones(len(groups))).clamp(min=1)
    return sums / sizes.unsqueeze(1)


def cosine_distance_to(student: Tensor, teacher: Tensor, student_to: Tensor, teacher_to: Tensor) -> Tensor:
    """Return the squared differences of cosines with reference vectors, summed, ``[]``.

    Args:
        student: float ``[n, d_s]``. teacher: ``[n, d_t]``. student_to: ``[m, d_s]``. teacher_to: ``[m, d_t]``.
    """
    own = unit_rows(student) @ unit_rows(student_to).T
    other = unit_rows(teacher) @ unit_rows(teacher_to).T
    return (own - other.detach()).square().sum()
