"""The Ray clusters of a run: their keys, and the connection once nothing else is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_kd.distributed.ray_cluster import connect
from recbole_kd.distributed.ray_ranks import connect_for_ranks
from recbole_kd.errors import ConfigError


def check_cluster_keys(of_teacher: str | None, student: Any, teachers: Sequence[Any] = ()) -> None:
    """Refuse addresses without an effect, and two clusters.

    A teacher's Config has the student's ``ray_address`` unless ``teacher.ray_address`` is given.

    Args:
        of_teacher: ``teacher_ray_address`` of the run.
        student: its Config. teachers: Configs of the teachers to train.

    Raises:
        ConfigError: an address is given for one process, or two differ.
    """
    joined = {of_teacher: "teacher_ray_address"} if of_teacher else {}
    trained = [("", student), *(("teacher.", config) for config in teachers)]
    for prefix, config in trained:
        address = config["ray_address"]
        if address and _processes(config) > 1:
            joined.setdefault(address, "ray_address" if address == student["ray_address"] else f"{prefix}ray_address")
    used = {config["ray_address"] for _, config in trained if _processes(config) > 1}
    for prefix, config in trained:
        address = config["ray_address"]
        if address and address not in used:
            raise ConfigError(
                f"{prefix}ray_address={address} has no effect with {prefix}nproc=1: set {prefix}nproc to the number of "
                "processes on the cluster"
            )
    if len(joined) > 1:
        named = " and ".join(f"{key}={address}" for address, key in joined.items())
        raise ConfigError(f"{named} name two clusters, and a run joins one: give both the same")


def connect_clusters(of_teacher: str | None, trained: Sequence[Any]) -> None:
    """Connect to the cluster that a run names, if any.

    Args:
        of_teacher: ``teacher_ray_address`` of the run.
        trained: Configs of the student and of the teachers to train.

    Raises:
        ConfigError: no cluster answers there, or it has no room for the processes.
    """
    for config in trained:
        if config["ray_address"] and _processes(config) > 1:
            connect_for_ranks(config["ray_address"], config["nproc"], config["device"].type == "cuda")
    if of_teacher:
        connect(of_teacher)


def _processes(config: Any) -> int:
    return int(config["nproc"] or 1)
