"""Checks that a Ray cluster answers and has room for a task, without Ray's long waits."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from recbole_kd.errors import ConfigError

KNOCK_SECONDS = 4.0
"""Time for a machine to accept a connection."""

ANSWER_SECONDS = 8.0
"""Time for the head of the cluster to answer, once it has accepted the connection."""

CLIENT = "ray://"


def check_answers(address: str) -> None:
    """Refuse an address where no Ray cluster answers within some seconds.

    Args:
        address: ``HOST:PORT``, ``ray://HOST:PORT``, ``auto`` (the environment's RAY_ADDRESS, if set), or ``local``,
            which starts a cluster and is not checked.

    Raises:
        ConfigError: no Ray cluster answers there.
    """
    place = (os.environ.get("RAY_ADDRESS") or "") if address == "auto" else address
    host, colon, port = place.removeprefix(CLIENT).rpartition(":")
    if not colon or not port.isdecimal() or not host:
        return  # Ray looks for a cluster on this machine, or reports what is wrong with the address
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise no_cluster(address, str(error) or type(error).__name__) from None
    if not place.startswith(CLIENT) and not _head_answers(place):
        raise no_cluster(address, f"something listens and gives no answer within {ANSWER_SECONDS:.0f} seconds")


def no_cluster(address: str, words: str) -> ConfigError:
    """Return the error for an address without a cluster, or ``local`` where none starts."""
    reason = " ".join(words.split())[:200]
    if address == "local":
        return ConfigError(
            f"ray_address='local': Ray does not start on this machine ({reason}); leave it out, or run again when the "
            "machine is less busy"
        )
    return ConfigError(
        f"ray_address={address!r}: no Ray cluster answers there ({reason}); start one with `ray start --head`"
    )


def _head_answers(place: str) -> bool:
    """Ask the head for a list of keys, in a thread, since the call blocks if nobody answers."""
    answered: list[bool] = []

    def ask() -> None:
        try:
            from ray._raylet import GcsClient  # type: ignore[attr-defined]

            GcsClient(address=place).internal_kv_keys(b"recbole_kd", None, timeout=int(ANSWER_SECONDS))
        except (ImportError, AttributeError, TypeError):
            answered.append(True)  # another version of Ray: its own connection attempt will tell
        except Exception:
            answered.append(False)
        else:
            answered.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return bool(answered) and answered[0]


def check_room(ray: Any, cpu: float, gpu: float, unit: str) -> None:
    """Refuse a task that no node of the cluster has room for: Ray would wait for one forever.

    Args:
        cpu, gpu: resources of one task. unit: word in the names of the keys, ``trial`` or ``task``.

    Raises:
        ConfigError: the largest node has less; the message says how much.
    """
    nodes = [node.get("Resources", {}) for node in ray.nodes() if node.get("Alive")]
    for name, key, wanted in (("CPU", f"cpus_per_{unit}", cpu), ("GPU", f"gpus_per_{unit}", gpu)):
        most = max((float(node.get(name, 0.0)) for node in nodes), default=0.0)
        if not wanted <= most:  # also refuses NaN
            raise ConfigError(
                f"{key}={wanted:g} is more than any node of the Ray cluster has: the largest has {most:g} {name}s, "
                "take at most that"
            )
    both = any(float(node.get("CPU", 0.0)) >= cpu and float(node.get("GPU", 0.0)) >= gpu for node in nodes)
    if not both:
        raise ConfigError(
            f"No node of the Ray cluster has {cpu:g} CPUs and {gpu:g} GPUs together: take fewer per {unit}"
        )
