"""Nothing waits forever.

This covers Ray addresses where nobody answers, tasks that no node has room for, and children that hear Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from recbole_kd.distributed import ray_probe
from recbole_kd.distributed.children import deaf_to_interrupts
from recbole_kd.distributed.ray_cluster import connect
from recbole_kd.distributed.ray_probe import check_room
from recbole_kd.errors import ConfigError


@pytest.fixture(autouse=True)
def _without_ray() -> None:
    """End a connection to Ray that an earlier test left: a connected process looks for no other cluster."""
    import ray

    ray.shutdown()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of something that accepts connections and never says a word."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def refused(address: str, within: float) -> str:
    started = time.monotonic()
    with pytest.raises(ConfigError) as error:
        connect(address)
    assert time.monotonic() - started < within
    return str(error.value)


def test_an_address_where_nobody_listens_is_refused_at_once(closed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (
        f"127.0.0.1:{closed}",
        f"ray://127.0.0.1:{closed}",
        "no-such-host.invalid:6379",
        "127.0.0.1:99999999",
    ):
        said = refused(address, 15)
        assert said.startswith(f"ray_address={address!r}: no Ray cluster answers there") and "ray start --head" in said
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed}")
    assert "no Ray cluster answers there" in refused("auto", 15)


def test_an_address_where_something_listens_in_silence_is_refused(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_probe, "ANSWER_SECONDS", 1.0)
    assert "something listens and gives no answer within 1 seconds" in refused(f"127.0.0.1:{silent}", 15)


def cluster(*nodes: dict[str, Any]) -> Any:
    return SimpleNamespace(nodes=lambda: list(nodes))


def test_a_task_must_fit_on_one_node() -> None:
    two = cluster(
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    )
    for cpu, gpu in ((4, 0), (0.5, 0), (2, 1), (0, 0.25)):
        check_room(two, cpu, gpu, "trial")
    for cpu, gpu, said in (
        (5, 0, "cpus_per_trial=5 is more than any node of the Ray cluster has: the largest has 4 CPUs"),
        (float("nan"), 0, "cpus_per_trial=nan is more"),
        (1, 2, "gpus_per_trial=2 is more than any node of the Ray cluster has: the largest has 1 GPUs"),
        (4, 1, "No node of the Ray cluster has 4 CPUs and 1 GPUs together"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_room(two, cpu, gpu, "trial")


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks here")
def test_children_of_a_command_do_not_hear_ctrl_c() -> None:
    code = "import time; print('up', flush=True); time.sleep(0.3); print('still here', flush=True)"
    with deaf_to_interrupts():
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    assert child.stdout is not None and child.stdout.readline() == "up\n"
    os.kill(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert out == "still here\n" and not err and child.returncode == 0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
