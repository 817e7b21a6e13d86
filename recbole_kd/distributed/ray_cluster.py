"""Connection to a Ray cluster, and the settings of its workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_kd.distributed.ray_probe import check_answers, no_cluster

_MIB = 2**20


def connect(address: str, object_store_mb: int | None = None) -> Any:
    """Connect to a Ray cluster, or start one on this machine, and return the ray module.

    Workers also find a checkout that is not installed, if they share its folder.

    Args:
        address: ``auto``, ``HOST:PORT``, or ``local`` to start a cluster on this machine.

    Raises:
        ConfigError: no cluster answers at the address, or none starts on this machine.
    """
    import ray

    if ray.is_initialized():
        return ray
    check_answers(address)
    here = str(Path(__file__).resolve().parents[2])
    paths = list(dict.fromkeys(filter(None, [here, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])))
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
    try:
        with _own_signals():
            _join(ray, address, environment, object_store_mb)
    except Exception as error:  # a busy machine, where Ray's own processes start too late, is an Exception of no kind
        raise no_cluster(address, str(error)) from None
    return ray


def _join(ray: Any, address: str, environment: dict[str, Any], object_store_mb: int | None) -> None:
    if address == "local":
        more: dict[str, Any] = {} if object_store_mb is None else {"object_store_memory": object_store_mb * _MIB}
        ray.init(address="local", include_dashboard=False, runtime_env=environment, log_to_driver=False, **more)
    else:
        ray.init(address=address, runtime_env=environment, log_to_driver=False)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this program's signal handlers.

    Ray installs its own handler for SIGTERM, and its Tune one for SIGINT that ends nothing.
    """
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            if handler is not None:
                signal.signal(signum, handler)


def own_devices() -> dict[str, Any]:
    """Return the device settings of a run in a Ray worker: the GPUs that Ray assigned to it.

    RecBole overwrites CUDA_VISIBLE_DEVICES with ``gpu_id``.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {} if given is None else {"gpu_id": given}
