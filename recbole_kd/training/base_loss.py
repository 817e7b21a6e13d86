"""The student's own loss of a training batch, scaled as the run needs it."""

from __future__ import annotations

from typing import Any

import torch

from recbole_kd.distributed.batch_shard import shard_of
from recbole_kd.distributed.data_parallel import Ranks
from recbole_kd.distributed.loss_terms import share_norms, terms_of_rows
from recbole_kd.errors import KDError
from recbole_kd.model.build_model import failed_first_loss
from recbole_kd.model.loss_reduction import adds_up, summed, sums_itself


class BaseLoss:
    """The loss that the model itself defines, as a sum or a mean over the rows of a batch.

    On several ranks each rank has a shard of the batch. The loss of a shard is scaled so that the losses of all shards
    add up to the loss of the batch.

    Args:
        model: the student.
        reduction: ``sum``, ``mean``, or None for the model's own.
        ranks: this process and those that train with it. None for a single process.

    Attributes:
        negatives_times: how often negative sampling repeats each row of a batch.
        is_first: True until an epoch has ended. An error is then the model's refusal of the data, and becomes a
            ConfigError.
        rows: number of rows since :meth:`count_anew`.
        batches: number of batches since :meth:`count_anew`.
    """

    def __init__(self, model: Any, reduction: str | None, ranks: Ranks | None) -> None:
        self.model = model
        self.negatives_times = 1
        self.is_first = True
        self.rows = 0
        self.batches = 0
        self._sums = reduction == "sum" and not sums_itself(model)
        self._adds_up = adds_up(model)
        self._norms = [] if ranks is None else share_norms(model, ranks.add_up)

    def count_anew(self) -> None:
        """Set the counts of rows and batches to 0."""
        self.rows = self.batches = 0

    def mean_of(self, total: float) -> float:
        """Return the mean over rows of an epoch's loss, which RecBole sums over batches."""
        return total / max(self.rows if self._sums or self._adds_up else self.batches, 1)

    def __call__(self, interaction: Any) -> Any:
        """Return the loss of a batch, a Tensor ``[]`` or a tuple of them.

        Raises:
            ConfigError: the model cannot take its first loss.
        """
        shard, factor = shard_of(interaction), 1.0
        for norms in self._norms:
            norms.counts = shard is None or shard.counts
        loss = self._of_model(interaction)
        whole = interaction if shard is None else shard.whole
        self.rows += len(whole) // self.negatives_times
        self.batches += 1
        if shard is not None and not self._adds_up:
            factor = shard.share(terms_of_rows(self.model, whole))
        elif shard is not None:
            factor = float(shard.counts)
        if self._sums:
            factor = summed(factor, len(whole) // self.negatives_times)
        return tuple(term * factor for term in loss) if isinstance(loss, tuple) else loss * factor

    def _of_model(self, interaction: Any) -> Any:
        try:
            return self.model.calculate_loss(interaction)
        except Exception as error:
            if not self.is_first or isinstance(error, KDError | torch.OutOfMemoryError):
                raise  # a training that has begun can be resumed
            raise failed_first_loss(self.model, error) from error
