"""Ranks that train together as workers of Ray Train, on the nodes of a Ray cluster.

A lost node ends its workers, and Ray Train ends the others, which would wait for it in a collective. The ranks are then
started again on the nodes that are left.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recbole_kd.distributed.data_parallel import PATIENCE
from recbole_kd.distributed.ray_cluster import connect
from recbole_kd.errors import ConfigError, KDError, LostProcessError
from recbole_kd.storage.screen_log import show

RESTARTS = 3
"""Number of times that the ranks of a training are started again."""

LOWEST_RAY = (2, 51)
"""Version of Ray whose Train this module is for."""

NODE_SECONDS = 120.0
"""Time for every node to start a process and answer."""

SHARE = "set cache_dir and output_dir to folders on a disk that all nodes share"

Given = Mapping[str, Any]


def ray_version() -> tuple[int, ...]:
    """Return major and minor version of the installed Ray."""
    import ray

    return tuple(int(part) for part in ray.__version__.split(".")[:2])


def connect_for_ranks(address: str, n: int, on_gpus: bool) -> Any:
    """Connect to a Ray cluster that has room for n ranks and return the ray module.

    Args:
        address: ``auto``, ``HOST:PORT``, or ``local`` to start a cluster on this machine.
        n: number of ranks.
        on_gpus: each rank takes a GPU, else a CPU.

    Raises:
        ConfigError: Ray is too old, no cluster answers, or it has too few CPUs or GPUs.
    """
    import ray

    if ray_version() < LOWEST_RAY:
        wanted = ".".join(map(str, LOWEST_RAY))
        raise ConfigError(
            f"ray_address={address} trains by Ray Train of Ray {wanted} or later and Ray {ray.__version__} is "
            f"installed: pip install 'ray[tune]>={wanted}', or leave it out"
        )
    if address == "local" and not ray.is_initialized() and not on_gpus:
        _refuse_above(os.cpu_count() or 1, n, "CPU")
    connect(address)
    check_room_for_ranks(ray, n, on_gpus)
    return ray


def check_room_for_ranks(ray: Any, n: int, on_gpus: bool) -> None:
    """Refuse more ranks than the cluster has room for, because Ray would wait for it (ConfigError)."""
    kind = "GPU" if on_gpus else "CPU"
    _refuse_above(sum(int(node["Resources"].get(kind, 0)) for node in _alive(ray)), n, kind)


def _refuse_above(room: int, n: int, kind: str) -> None:
    if n > room:
        raise ConfigError(
            f"nproc={n} is more than the {room} {kind}s of the Ray cluster: take at most that, or add nodes"
        )


def _alive(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def check_shared(ray: Any, folders: Sequence[Path], on_gpus: bool) -> None:
    """Refuse folders that a node with room for a rank does not see.

    Args:
        folders: existing folders with names of their own, which no other machine has by chance.

    Raises:
        ConfigError: a node does not see a folder, does not answer, or cannot import this package.
    """
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    kind = "GPU" if on_gpus else "CPU"
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in _alive(ray) if node["Resources"].get(kind, 0) >= 1}
    ask = ray.remote(num_cpus=0, max_retries=0)(_missing)
    answers = {
        place: ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(identity, soft=False)).remote(
            [str(folder) for folder in folders]
        )
        for identity, place in nodes.items()
    }
    for place, answer in answers.items():
        try:
            missing = ray.get(answer, timeout=NODE_SECONDS)
        except GetTimeoutError:
            raise ConfigError(
                f"The node {place} of the Ray cluster gave no answer within {NODE_SECONDS:.0f} seconds: end what it "
                "is busy with, or remove it from the cluster"
            ) from None
        except (RayError, ImportError) as error:
            raise ConfigError(
                f"The node {place} of the Ray cluster cannot run recbole_kd ({_reason(error)}): install it there"
            ) from None
        if missing:
            raise ConfigError(f"The node {place} of the Ray cluster does not see the folder {missing[0]}: {SHARE}")


def _missing(folders: list[str]) -> list[str]:
    return [folder for folder in folders if not os.path.isdir(folder)]


def run_ranks(work: Callable[[dict[str, Any]], None], given: Given, n: int, on_gpus: bool, storage: Path) -> None:
    """Run n ranks of Ray Train until all have done their work, and again if a node is lost.

    Args:
        work: called in each worker with ``given``, where the process group exists. It continues what an earlier call
            has begun.
        given: plain values.
        n: number of ranks.
        on_gpus: each rank takes a GPU and they use NCCL, else a CPU and gloo.
        storage: shared folder for Ray Train's own files.

    Raises:
        KDError: what a rank raised.
        LostProcessError: ranks were lost more than :data:`RESTARTS` times, or too few nodes are left.
    """
    import ray

    for attempt in range(RESTARTS + 1):
        failure = _failure_of(partial(_fit, work, given, n, on_gpus, storage / str(attempt)))
        if failure is None:
            return
        for error in getattr(failure, "worker_failures", {}).values():
            if isinstance(error, KDError) and not isinstance(error, LostProcessError):
                raise error
        reason = _reason(failure)
        try:
            check_room_for_ranks(ray, n, on_gpus)
        except ConfigError as full:
            raise LostProcessError(f"{full}; then run again with --resume=True ({reason})") from failure
        except Exception:  # whatever Ray raises without its head
            raise LostProcessError(
                f"The Ray cluster was lost ({reason}): start it again, then run again with --resume=True"
            ) from failure
        if attempt < RESTARTS:
            show(f"      The Ray cluster lost a process ({reason}): the training continues from its last state")
    raise LostProcessError(
        f"The Ray cluster lost a process {RESTARTS + 1} times, last for this reason: {reason}; run again with "
        "--resume=True"
    ) from failure


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


def _failure_of(call: Callable[[], None]) -> Exception | None:
    """Return the exception of a call that runs in a thread.

    In the main thread Ray Train would replace the handler of Ctrl-C by one that ends the program with exit code 0. An
    interrupt disconnects from the cluster, which ends the workers.
    """
    failures: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        import ray

        ray.shutdown()
        raise
    return failures[0] if failures else None


def _fit(work: Callable[[dict[str, Any]], None], given: Given, n: int, on_gpus: bool, storage: Path) -> None:
    """Start the ranks once and wait for their end; a failure is raised and not tried again."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    once = FailureConfig(max_failures=0, controller_failure_limit=0)  # type: ignore[call-arg]  # of Ray Train's second version
    TorchTrainer(
        work,
        train_loop_config=dict(given),
        torch_config=TorchConfig(backend="nccl" if on_gpus else "gloo", timeout_s=int(PATIENCE.total_seconds())),
        scaling_config=ScalingConfig(num_workers=n, use_gpu=on_gpus, placement_strategy="SPREAD"),
        run_config=RunConfig(name="ranks", storage_path=str(storage), failure_config=once),
    ).fit()
