"""Sampled softmax over positions, computed in chunks.

The ``[P, R]`` scores of a batch are never in memory as a whole, and there is no ``[P, R, d]`` tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recbole_kd.model.blocked_loss import blocked_mean
from recbole_kd.ops.gathered_dot import gathered_dot

SCORES_PER_CHUNK = 2**21
NEGATIVES_PER_BLOCK = 2**18


class UniformNegatives:
    """Uniform negatives for the positions of a batch.

    Each call with n draws for the next n positions.


    They are uniform over the items 1 to n_items - 1, including those of the history. The rows always come from the same
    table, independent of n, of the device's launches and of the number of processes that share the batch, because each
    block of the table has its own generator.

    Args:
        n_items: number of items with the pad.
        n_negatives: R, negatives per position.
        device: device of the draws.
        mine: bool ``[P]``, marks the positions of this process in the batch. None if all are here.
    """

    def __init__(self, n_items: int, n_negatives: int, device: torch.device, mine: Tensor | None = None) -> None:
        self._n_items, self._n_negatives, self._generator = n_items, n_negatives, torch.Generator(device)
        self._seed = int(np.random.randint(2**62))  # numpy's stream is equal in all processes; dropout moves torch's
        self._positions = None if mine is None else mine.nonzero().squeeze(1)
        self._rows_per_block = max(1, NEGATIVES_PER_BLOCK // n_negatives)
        self._taken = 0

    def __call__(self, n: int) -> Tensor:
        """Draw for the next n positions, int64 ``[n, R]``."""
        device, height = self._generator.device, self._rows_per_block
        start, self._taken = self._taken, self._taken + n
        rows = (
            torch.arange(start, self._taken, device=device)
            if self._positions is None
            else self._positions[start : self._taken]
        )
        if n == 0:
            return torch.empty(0, self._n_negatives, dtype=torch.int64, device=device)
        first, last = int(rows[0]) // height, int(rows[-1]) // height
        ends = torch.searchsorted(rows, torch.arange(first, last + 2, device=device) * height).tolist()
        return torch.cat(
            [
                self._block(b)[rows[i:j] - b * height]
                for b, i, j in zip(range(first, last + 1), ends, ends[1:], strict=False)
            ]
        )

    def top(self) -> Tensor:
        """Draw one row for all positions, int64 ``[R]``."""
        generator = self._generator.manual_seed(self._seed)
        return torch.randint(1, self._n_items, (self._n_negatives,), generator=generator, device=generator.device)

    def _block(self, number: int) -> Tensor:
        self._generator.manual_seed(self._seed + number)
        shape = (self._rows_per_block, self._n_negatives)
        return torch.randint(1, self._n_items, shape, generator=self._generator, device=self._generator.device)


def sampled_softmax(
    queries: Tensor,
    items: Tensor,
    positives: Tensor,
    negatives: Tensor | Callable[[int], Tensor],
    temperature: float,
    scores_per_chunk: int = SCORES_PER_CHUNK,
) -> Tensor:
    r"""Return the sampled softmax loss, a mean over positions.

    A position's loss is :math:`-\log \frac{e^{s_+/t}}{e^{s_+/t} + \sum_j e^{s_j/t}}`. A negative that equals the
    positive does not count.

    Args:
        queries: float ``[P, d]``.
        items: float ``[I, d]``.
        positives: int64 ``[P]``.
        negatives: int64 ``[P, R]``, separate for each position; or int64 ``[R]``, shared by all; or a function that
            draws separate ones.
        temperature: t.
        scores_per_chunk: number of scores in memory at a time.

    Returns:
        float ``[]``, once differentiable in queries and items. Zero if there is no position.
    """
    n_negatives = (negatives(0) if callable(negatives) else negatives).shape[-1]

    def block_loss(rows: slice, block: Tensor, table: Tensor) -> Tensor:
        if callable(negatives):
            return _chunk_loss(block, table, positives[rows], negatives(len(block)), temperature)
        given = negatives if negatives.dim() == 1 else negatives[rows]
        return _chunk_loss(block, table, positives[rows], given, temperature)

    return blocked_mean(queries, items, block_loss, max(1, scores_per_chunk // (n_negatives + 1)))


def _chunk_loss(queries: Tensor, items: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return the sum over a chunk's positions."""
    if negatives.dim() == 1:
        positive = (queries * items[positives]).sum(1, keepdim=True)
        scores = torch.cat([positive, queries @ items[negatives].T], dim=1)
    else:
        scores = gathered_dot(queries, items, torch.cat([positives.unsqueeze(1), negatives], dim=1))
    scores = scores / temperature
    same = negatives == positives.unsqueeze(1)
    scores = scores.masked_fill(torch.nn.functional.pad(same, (1, 0)), -torch.inf)
    return (scores.logsumexp(1) - scores[:, 0]).sum()
