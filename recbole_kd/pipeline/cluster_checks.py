"""The Ray clusters of a run: their keys, and the connection once nothing else is refused."""

from __future__ import annotations

from typing import Any

from recbole_kd.distributed.ray_cluster import connect
from recbole_kd.distributed.ray_ranks import connect_for_ranks
from recbole_kd.errors import ConfigError


def check_cluster_keys(of_teacher: str | None, config: Any) -> None:
    """Refuse addresses without an effect, and two clusters.

    Args:
        of_teacher: ``teacher_ray_address`` of the run.
        config: Config of the student.

    Raises:
        ConfigError: ``ray_address`` is given for one process, or is another than that of the teacher.
    """
    address, n = config["ray_address"], config["nproc"] or 1
    if address and n == 1:
        raise ConfigError(
            f"ray_address={address} has no effect with nproc=1: set nproc to the number of processes on the cluster"
        )
    if address and of_teacher and address != of_teacher:
        raise ConfigError(
            f"ray_address={address} and teacher_ray_address={of_teacher} name two clusters, and a run joins one: give "
            "both the same"
        )


def connect_clusters(of_teacher: str | None, config: Any) -> None:
    """Connect to the cluster that a run names, if any.

    Raises:
        ConfigError: no cluster answers there, or it has no room for the processes.
    """
    if config["ray_address"]:
        connect_for_ranks(config["ray_address"], config["nproc"], config["device"].type == "cuda")
    elif of_teacher:
        connect(of_teacher)
