"""Sizes in a model's keys that the data may be too small for, checked before anything is trained."""

from __future__ import annotations

from typing import Any

from recbole_kd.errors import ConfigError

AT_MOST = {
    "NCL": ("num_clusters", "clusters of users and of items", ("users", "items")),
    "RaCT": ("metrics_k", "ranks, which its critic looks at,", ("items",)),
}
"""Model -> its key, what that counts, and what there cannot be more of."""


def check_model_sizes(config: Any, n_users: int, n_items: int) -> None:
    """Refuse a count that is larger than the data allow, such as more clusters than users.

    Args:
        config: RecBole's Config of a model.
        n_users, n_items: of the data, without the pad.

    Raises:
        ConfigError: names the key and a value that is possible.
    """
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
        f"{config['dataset']}, which has {there}. Try --teacher.{key}={max(1, most // 4)}"
    )
