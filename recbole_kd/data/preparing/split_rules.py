"""Split rules for interactions that are grouped by user and in order within a user."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recbole_kd.data.preparing.interactions import IntArray, Mask

RATIO_RULE = "per user in order: l = max(8n//10, 1), r = 9n//10; train [:l], valid [l:r], test [r:]"
HOLD_OUT_RULE = "test as published; one ninth of each user's published train rows, rounded, drawn for valid"
HELD_OUT_SHARE = 9


def rank_in_group(group: IntArray) -> npt.NDArray[np.int64]:
    """Return 0, 1, 2, ... within each run of equal values; equal values must be adjacent."""
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    lengths = np.diff(np.r_[starts, len(group)])
    return np.arange(len(group)) - np.repeat(starts, lengths)


def ratio_split(user: IntArray) -> dict[str, Mask]:
    """Split by the 8:1:1 rule of the RCE-KD experiments (RecBole rounds differently).

    A user with one interaction keeps it for training: the formula alone would put it in test too.
    """
    n, rank = np.bincount(user)[user], rank_in_group(user)
    left = np.maximum(8 * n // 10, 1)
    right = np.maximum(9 * n // 10, left)
    return {"train": rank < left, "valid": (rank >= left) & (rank < right), "test": rank >= right}


def hold_out(user: IntArray, is_train: Mask, seed: int) -> dict[str, Mask]:
    """Draw validation rows from the published train rows; `trainall` is all of those."""
    rows = np.flatnonzero(is_train)
    # RandomState: numpy promises that its stream never changes, so a seed gives the same files everywhere
    draw = np.random.RandomState(seed).random_sample(len(rows))
    shuffled = rows[np.lexsort((draw, user[rows]))]
    n = np.bincount(user[shuffled])[user[shuffled]]
    held_out = (2 * n + HELD_OUT_SHARE) // (2 * HELD_OUT_SHARE)
    valid = np.zeros(len(user), dtype=np.bool_)
    valid[shuffled[rank_in_group(user[shuffled]) < held_out]] = True
    return {"train": is_train & ~valid, "valid": valid, "test": ~is_train, "trainall": is_train}
