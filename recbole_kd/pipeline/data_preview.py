"""A preview of a run's data: counts, the split in words, a user's items."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_kd.config.known_keys import close_names
from recbole_kd.data.split_and_loaders import Splits
from recbole_kd.data.split_words import ranking_in_words, split_in_words
from recbole_kd.errors import DataError

PHASES = ("train", "valid", "test")
FEW = 3
"""Number of users that an error names."""


def data_preview(config: Any, splits: Splits) -> dict[str, Any]:
    """Return users, items, interactions by phase, and split and ranking in words.

    ``labels`` counts the labels of training rows, if the data have labels. ``rows_without_item`` counts rows whose item
    is the pad.
    """
    dataset = splits.dataset
    items = [np.asarray(part.inter_feat[dataset.iid_field]) for part in splits.parts]
    preview: dict[str, Any] = {
        "dataset": config["dataset"],
        "users": splits.n_users,
        "items": splits.n_items,
        "interactions": dict(zip(PHASES, map(len, items), strict=True)),
        "split": split_in_words(config),
        "ranked": ranking_in_words(config),
        "rows_without_item": int(sum((ids == 0).sum() for ids in items)),
    }
    train = splits.parts[0].inter_feat
    if dataset.label_field in train.columns:
        labels, counts = np.unique(np.asarray(train[dataset.label_field]), return_counts=True)
        preview["labels"] = {f"{label:g}": int(count) for label, count in zip(labels, counts, strict=True)}
    return preview


def data_counts(splits: Splits) -> dict[str, int]:
    """Return the counts of users, items and interactions by which data are recognised."""
    rows = {phase: len(part.inter_feat) for phase, part in zip(PHASES, splits.parts, strict=True)}
    return {"users": splits.n_users, "items": splits.n_items, **rows}


def items_of_user(splits: Splits, user: str | None = None) -> dict[str, Any]:
    """Return the names of a user's items in each phase, in the order of the rows.

    Args:
        splits: the data.
        user: name of the user in the file. If None, the first user of the data set.

    Raises:
        DataError: the data set has no such user, or the filters remove it.
    """
    dataset = splits.dataset
    names = [str(name) for name in dataset.field2id_token[dataset.uid_field]]
    user = names[1] if user is None else user
    if user not in names[1:]:
        close = close_names(user, names[1:])[:FEW] or names[1 : 1 + FEW]
        raise DataError(
            f"--user={user} is none of the {splits.n_users} users that {dataset.dataset_name} has after its filters: "
            f"name one of them, such as {', '.join(close)}"
        )
    number = names.index(user, 1)
    of_user: dict[str, Any] = {"user": user}
    for phase, part in zip(PHASES, splits.parts, strict=True):
        rows = np.asarray(part.inter_feat[dataset.uid_field]) == number
        ids = np.asarray(part.inter_feat[dataset.iid_field])[rows]
        of_user[phase] = [str(dataset.id2token(dataset.iid_field, int(item))) for item in ids]
    return of_user
