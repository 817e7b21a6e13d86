"""Fingerprints of data, which tell whether a teacher was trained on the same split."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_kd.data.histories.recbole_rows import interactions_of
from recbole_kd.data.time_order import RAW_ROW, RAW_TIME
from recbole_kd.errors import DataError
from recbole_kd.storage.digests import digest


def _pairs(dataset: Any) -> dict[str, Any]:
    """Return the count and the digest of the interactions, independent of their order."""
    users, items = (np.asarray(column).astype(np.int64) for column in interactions_of(dataset))
    pairs = np.sort(users * int(dataset.item_num) + items)
    return {"count": len(pairs), "pairs": digest(pairs.tobytes())}


def _order_digest(dataset: Any) -> str | None:
    """Return the digest of each user's items in order, with their times if the data have any.

    None if the data set does not keep an order. A data set in RecBole's order adds that order if it differs.
    """
    columns = dataset.inter_feat
    if RAW_TIME not in columns or RAW_ROW not in columns:
        return None
    users, items, times, rows = (
        np.asarray(columns[field]) for field in (dataset.uid_field, dataset.iid_field, RAW_TIME, RAW_ROW)
    )
    order = np.lexsort((rows, times, users))
    kept = [users[order].astype(np.int64), items[order].astype(np.int64)]
    if dataset.has_times:
        kept.append(times[order])
    if not dataset.is_exact and dataset.time_field in columns:
        recboles = np.lexsort((rows, np.asarray(columns[dataset.time_field]), users))
        if not np.array_equal(items[order], items[recboles]):
            kept.append(items[recboles].astype(np.int64))
    return digest(*(column.tobytes() for column in kept))


def _tokens_digest(dataset: Any, field: str) -> str:
    tokens = dataset.field2id_token[field]
    return digest("\x1f".join(str(token) for token in tokens).encode())


def data_fingerprint(
    train: Any | None = None, valid: Any | None = None, test: Any | None = None, full: Any | None = None
) -> dict[str, Any]:
    """Return the fingerprint of the data behind a model: id maps, counts and the split.

    Args:
        train, valid, test: RecBole datasets (or loaders) of the three phases.
        full: the data set before the split.

    Returns:
        A JSON-ready mapping with one part for each argument given. Compare two with
        :func:`recbole_kd.data.fingerprint_comparison.describe_mismatch`, which looks at the parts that both have. The
        part ``histories`` describes the training part, if its data set keeps the order.
    """
    phases = {"train": train, "valid": valid, "test": test, "interactions": full}
    datasets = {name: getattr(data, "_dataset", data) for name, data in phases.items() if data is not None}
    # a data set made for one model stands for the part of the split that it comes from
    datasets = {name: getattr(dataset, "split_part", dataset) for name, dataset in datasets.items()}
    any_dataset = next(iter(datasets.values()))
    result: dict[str, Any] = {
        "n_users": int(any_dataset.user_num),
        "n_items": int(any_dataset.item_num),
        "users": _tokens_digest(any_dataset, any_dataset.uid_field),
        "items": _tokens_digest(any_dataset, any_dataset.iid_field),
    }
    for name, dataset in datasets.items():
        result[name] = _pairs(dataset)
    order = _order_digest(datasets["train"]) if "train" in datasets else None
    return result if order is None else {**result, "histories": order}


def check_same_ids(train: Any, other: Any) -> None:
    """Refuse a loader whose users or items are not those of the training data.

    Its ids would stand for other users and items.

    Args:
        train, other: RecBole loaders or data sets.

    Raises:
        DataError: names what differs.
    """
    known, given = (getattr(data, "_dataset", data) for data in (train, other))
    for what, field, its_field in (
        ("users", known.uid_field, given.uid_field),
        ("items", known.iid_field, given.iid_field),
    ):
        tokens, its_tokens = known.field2id_token[field], given.field2id_token[its_field]
        if tokens is not its_tokens and not np.array_equal(tokens, its_tokens):
            raise DataError(
                f"The {what} of the data to evaluate on ({given.dataset_name}) are not those of the training data "
                f"({known.dataset_name}): give the loaders of one data set, of one call of prepare_data or "
                "data_preparation"
            )
