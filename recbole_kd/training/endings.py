"""The ends of a training: those that RecBole's loop does not know, and the key that brought one about."""

from __future__ import annotations

from recbole_kd.distributed.data_parallel import Ranks


class TimeIsUpError(Exception):
    """An exception that leaves RecBole's training loop when max_minutes has passed.

    That loop ends only at the last epoch or when patience runs out.
    """


class PauseError(Exception):
    """An exception that leaves RecBole's training loop at the epoch of ``pause_at``."""


def time_is_up(spent: float, max_seconds: float | None, ranks: Ranks | None) -> bool:
    """Return whether max_minutes has passed. All ranks agree: the mean elapsed time decides.

    Args:
        spent: seconds of this process in its epochs.
        max_seconds: None for no limit.
        ranks: the processes that train together. None for a single one.
    """
    if max_seconds is None:
        return False
    return (spent if ranks is None else ranks.sum([spent])[0] / ranks.world) >= max_seconds


def stopped_by(cur_step: int, stopping_step: int, n_epochs: int, most_epochs: int) -> str:
    """Return the key that ended a training: ``epochs``, ``stopping_step`` or ``max_minutes``.

    Args:
        cur_step: validations since the best one.
        stopping_step: the patience.
        n_epochs: epochs that were trained.
        most_epochs: the key ``epochs``.
    """
    if cur_step > stopping_step:
        return "stopping_step"
    return "epochs" if n_epochs >= most_epochs else "max_minutes"
