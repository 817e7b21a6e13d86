"""Figures of a teacher before it is used: coverage, popularity, training items in its lists, metrics."""

from __future__ import annotations

from typing import Any

import torch

from recbole_kd.data.split_and_loaders import Splits, make_loaders
from recbole_kd.data.train_items import train_items
from recbole_kd.evaluation.teacher_ranking import teacher_metrics
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.coverage import coverage_of


@torch.no_grad()
def teacher_figures(config: Any, splits: Splits, teacher: TeacherScores, k: int = 10) -> dict[str, Any]:
    """Return figures of a teacher's first k items of each user, training items included.

    Args:
        config: Config of a student on the data.
        splits: the data.
        teacher: the scores.
        k: length of the lists that are looked at.

    Returns:
        ``coverage`` (see :func:`recbole_kd.teacher.coverage.coverage_of`; None if it knows everything), ``k``,
        ``popularity_ratio``, the mean number of training interactions of a listed item over that of any item (1 for no
        bias), ``items_listed``, the share of the catalogue that is in any list, ``training_share``, the share of listed
        items that the user has in training, and ``valid`` and ``test``, its metrics without training items, if they can
        be measured.
    """
    train = train_items(make_loaders(config, splits).train)
    users = torch.arange(1, splits.n_users + 1)
    listed = teacher.top_k(users, k)[0]
    entries = listed[listed != 0]
    counts = torch.bincount(train.items, minlength=teacher.n_items).double()
    seen = train.contains(users, listed) & (listed != 0)
    n_items = teacher.n_items - 1
    known = teacher.manifest.get("report") or {}
    measured = known if known.get("test") else teacher_metrics(config, splits, teacher)
    return {
        "coverage": coverage_of(teacher),
        "k": k,
        "popularity_ratio": float(counts[entries].mean() / counts[1:].mean()),
        "items_listed": len(entries.unique()) / n_items,
        "training_share": float(seen.sum()) / max(1, len(entries)),
        "valid": measured.get("valid"),
        "test": measured.get("test"),
    }
