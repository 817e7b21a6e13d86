"""Training items of each user, and of each query of a student."""

from __future__ import annotations

from typing import Any

from recbole_kd.data.histories.recbole_rows import interactions_of, sequence_queries
from recbole_kd.ops.ragged import Ragged


def train_items(loader: Any) -> Ragged:
    """Return the training items of each user, from a RecBole training loader (or data set)."""
    dataset = getattr(loader, "_dataset", loader)
    dataset = getattr(dataset, "split_part", dataset)  # rows of a sequential model are made from this part
    users, items = interactions_of(dataset)
    return Ragged.from_pairs(users.numpy(), items.numpy(), dataset.user_num)


def query_items(loader: Any) -> Ragged:
    """Return the training items of each query of the student: of a user or of a history.

    :mod:`recbole_kd.scoring.scorer` defines queries.
    """
    queries = sequence_queries(loader)
    return train_items(loader) if queries is None else queries.training_rows().seen_items()
