"""Sizes in a model's keys that the data may be too small for, checked before anything is trained."""

from __future__ import annotations

from typing import Any

from recbole_kd.errors import ConfigError

AT_MOST = {
    "NCL": ("num_clusters", "clusters of users and of items", ("users", "items")),
    "RaCT": ("metrics_k", "ranks, which its critic looks at,", ("items",)),
}
"""Model -> its key, what that counts, and what there cannot be more of."""


def check_model_sizes(config: Any, n_users: int, n_items: int, n_rows: int, prefix: str = "--teacher.") -> None:
    """Refuse a count that is larger than the data allow, such as more clusters than users.

    Args:
        config: RecBole's Config of a model.
        n_users, n_items: of the data, without the pad.
        n_rows: training interactions.
        prefix: of the model's keys on the command line.

    Raises:
        ConfigError: names the key and a value that is possible.
    """
    if config["model"] == "DGCF":
        _check_sampled_ids(config, n_users + 1, n_items + 1, n_rows, prefix)
    if config["model"] not in AT_MOST:
        return
    key, what, bounds = AT_MOST[config["model"]]
    counts = {"users": n_users, "items": n_items}
    most = min(counts[bound] for bound in bounds)
    if config[key] <= most:
        return
    there = " and ".join(f"{counts[bound]} {bound}" for bound in bounds)
    raise ConfigError(
        f"{key}={config[key]} of {config['model']} is not possible: there can be no more {what} than there are in "
        f"{config['dataset']}, which has {there}. Try {prefix}{key}={max(1, most // 4)}"
    )


def _check_sampled_ids(config: Any, n_users: int, n_items: int, n_rows: int, prefix: str) -> None:
    """Refuse batches with which DGCF would draw more users or items than there are (ConfigError).

    With each batch it draws as many of both, without repeats: its share of the larger of the two sets.
    """
    larger, smaller = max(n_users, n_items), min(n_users, n_items)
    n_batches = n_rows // config["train_batch_size"] + 1
    if config["n_factors"] <= 1 or config["cor_weight"] <= 1e-9 or int(larger / n_batches) <= smaller:
        return
    needed = -(-larger // smaller)
    raise ConfigError(
        f"train_batch_size={config['train_batch_size']} of DGCF is not possible: it makes {n_batches} batches of "
        f"{n_rows:,} interactions, and with each DGCF draws {int(larger / n_batches)} users and as many items, more "
        f"than there are. Try {prefix}train_batch_size={max(1, n_rows // needed)}"
    )
