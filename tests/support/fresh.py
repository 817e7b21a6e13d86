"""Python processes that have not imported this package, without the seconds that its libraries take.

They are forked from one server for all workers of a session (:mod:`tests.support.fresh_server`). Nothing of RecBole, of
this package or of the tests has been imported in it.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from filelock import FileLock

from tests.support.fresh_server import STAY
from tests.support.paths import ROOT

STARTED = 120.0
"""Seconds in which the server has imported its libraries."""


def python(
    *words: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run ``python *words`` in a process that has imported nothing of RecBole and of this package.

    ``-c CODE``, ``-m MODULE`` and a script are understood, as are PYTHONPATH and OMP_NUM_THREADS in the environment;
    what an interpreter reads before it starts (sitecustomize, other PYTHON* variables) is not.

    Args:
        cwd: its working folder. env: its whole environment; None: this process's, with the checkout in PYTHONPATH and
            one thread. timeout: seconds.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} if env is None else dict(env)
    if not hasattr(os, "pidfd_open"):
        return subprocess.run(
            [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
        )
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with Fresh(words, cwd, environment, out.fileno(), err.fileno()) as process:
            code = process.wait(timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(words), code, out.read(), err.read())


class Fresh:
    """A process that the server forks; as a context it is killed at the end.

    Attributes:
        pid: its number.
    """

    def __init__(self, words: Sequence[str], cwd: Path, env: Mapping[str, str], out: int, err: int) -> None:
        self._words = list(words)
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_server())
        request = json.dumps({"words": self._words, "cwd": str(cwd), "env": dict(env)}).encode() + b"\n"
        sent = socket.send_fds(self._connection, [request], [out, err])
        self._connection.sendall(request[sent:])
        self._lines = self._connection.makefile("r")
        self.pid = int(self._lines.readline())

    def wait(self, timeout: float) -> int:
        """Return its exit code, negative for a signal, as :class:`subprocess.Popen` does."""
        self._connection.settimeout(timeout)
        try:
            return int(self._lines.readline())
        except TimeoutError:
            raise subprocess.TimeoutExpired(self._words, timeout) from None

    def __enter__(self) -> Fresh:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)  # the server kills what still runs
        self._lines.close()
        self._connection.close()


@cache
def _server() -> str:
    """Return the path of the session's server, which is started where none answers and stays while we do."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())
    place = os.path.join(tempfile.gettempdir(), f"recbole-kd-tests-{os.getuid()}-{run[:16]}")
    life = socket.socket(socket.AF_UNIX)
    atexit.register(life.close)
    with FileLock(f"{place}.lock"):
        if not _answers(life, place):
            words = [sys.executable, str(Path(__file__).with_name("fresh_server.py")), place]
            environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
            server = subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
            )
            atexit.register(server.poll)  # until then nobody asks for it
            end = time.monotonic() + STARTED
            while not _answers(life, place):
                assert server.poll() is None and time.monotonic() < end, "no server of fresh processes"
                time.sleep(0.05)
    return place


def _answers(life: socket.socket, place: str) -> bool:
    """Return whether the server answers at this path; it stays then while ``life`` does."""
    try:
        life.connect(place)
    except OSError:
        return False
    life.sendall(STAY)
    return True
