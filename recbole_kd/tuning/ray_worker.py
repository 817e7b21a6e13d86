"""The keys of a task of a Ray study: those of its node, and the request that they make with a trial's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from recbole_kd.config.merging import merge_sources
from recbole_kd.pipeline.request import Request, make_request
from recbole_kd.storage.places import user_path

NODE_CACHE = "node_cache"
"""Key of a study's base: whether a worker uses the RECBOLE_KD_CACHE of its node, because the user named no cache."""


def on_this_node(base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base with the cache folder of this worker's node, without :data:`NODE_CACHE`."""
    own = os.environ.get("RECBOLE_KD_CACHE") if base[NODE_CACHE] else None
    places = {"cache_dir": str(user_path(own, "RECBOLE_KD_CACHE").resolve())} if own else {}
    return {**{key: value for key, value in base.items() if key != NODE_CACHE}, **places}


def trial_request(base: Mapping[str, Any], settings: Mapping[str, Any]) -> Request:
    """Return the request of a trial.

    Args:
        base: the common keys.
        settings: the searched keys, which override them.

    Raises:
        ConfigError: a key or a value is invalid.
    """
    return make_request(merge_sources(None, dict(base), settings), drawn=settings)
