"""Ray: connecting to a cluster, and what a worker must know."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from recbole_kd.errors import ConfigError

_MIB = 2**20


def connect(address: str, object_store_mb: int | None = None) -> Any:
    """Join the cluster at ``address`` (``auto``, ``HOST:PORT``), or start one of this machine alone (``local``); the ray module.

    A checkout that is not installed is found by the workers too, where they share its folder.

    Raises:
        ConfigError: no cluster there.
    """
    import ray

    if ray.is_initialized():
        return ray
    here = str(Path(__file__).resolve().parents[2])
    paths = list(dict.fromkeys(filter(None, [here, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])))
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
    try:
        if address == "local":
            more: dict[str, Any] = {} if object_store_mb is None else {"object_store_memory": object_store_mb * _MIB}
            ray.init(include_dashboard=False, runtime_env=environment, log_to_driver=False, **more)
        else:
            ray.init(address=address, runtime_env=environment, log_to_driver=False)
    except (ConnectionError, ValueError, TimeoutError) as error:
        words = " ".join(str(error).split())[:200]
        raise ConfigError(f"ray_address={address!r}: no Ray cluster answers there ({words}); start one with `ray start --head`") from None
    return ray


def own_devices() -> dict[str, Any]:
    """Settings of a run inside a Ray worker: the GPUs that Ray gave it. RecBole writes ``gpu_id`` over CUDA_VISIBLE_DEVICES."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {} if given is None else {"gpu_id": given}
