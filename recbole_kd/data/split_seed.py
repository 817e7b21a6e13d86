"""Seed of a random split."""

from __future__ import annotations

from typing import Any


def split_seed(config: Any) -> Any:
    """Return the seed of the split: ``split_seed`` if set, else RecBole's ``seed``.

    With ``split_seed`` students of all seeds share one split.
    """
    return config["seed"] if config["split_seed"] is None else config["split_seed"]
