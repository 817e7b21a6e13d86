"""Which seed a random split has."""

from __future__ import annotations

from typing import Any


def split_seed(config: Any) -> Any:
    """RecBole splits by ``seed``; a run of ours by ``split_seed``, so that students of all seeds share one split."""
    return config["seed"] if config["split_seed"] is None else config["split_seed"]
