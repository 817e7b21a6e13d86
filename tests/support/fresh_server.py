"""Server of processes that have imported the libraries of RecBole, and neither RecBole nor this package.

``python fresh_server.py SOCKET`` listens at a path. It ends with the last of those that keep a connection to it.
:mod:`tests.support.fresh` asks it.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import types
from contextlib import suppress

import psutil

LIBRARIES = (
    "pandas", "pydantic", "ray.tune", "safetensors.torch", "scipy.stats", "sklearn.linear_model", "sklearn.metrics",
    "sklearn.svm", "torch.export", "torch.utils.tensorboard",
)  # fmt: skip
"""Modules whose import takes most of the seconds of ``import recbole_kd``."""

PATIENCE = 120.0
"""Seconds for the first connection."""

STAY = b"stay"
"""A connection's first bytes that ask for nothing but that the server stays."""

PART = 2**16
"""Most bytes that are read at once."""


def serve(path: str) -> int | None:
    """Answer requests; return the exit code in a process that was asked for, None in the server once it is over."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    kept: list[socket.socket] = []
    patience = PATIENCE
    while True:
        ready, _, _ = select.select([listener, *kept], [], [], patience)
        if not ready and not kept:
            return None
        for connection in ready:
            if connection is listener:
                asked, _ = listener.accept()
                if _is_asked(asked, listener, kept):
                    return _answer(asked)
                patience = None if kept else PATIENCE
            else:  # they say nothing more: it is the end
                kept.remove(connection)
                connection.close()
        while _one_ended():
            pass
        if patience is None and not kept:
            return None


def _one_ended() -> bool:
    """Return whether one of the waiting children has ended; it is gone then."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _is_asked(asked: socket.socket, listener: socket.socket, kept: list[socket.socket]) -> bool:
    """Return, in a child, that it answers this request; keep or close the connection in the server."""
    if asked.recv(len(STAY), socket.MSG_PEEK) == STAY:
        asked.recv(len(STAY))
        kept.append(asked)
        return False
    if os.fork():
        asked.close()
        return False
    for other in (listener, *kept):
        other.close()
    return True


def _answer(asked: socket.socket) -> int | None:
    """Do what a request asks for in a child, while this process waits for its end and tells it."""
    given, streams, _, _ = socket.recv_fds(asked, PART, 2)
    while not given.endswith(b"\n"):
        given += asked.recv(PART)
    request = json.loads(given)
    child = os.fork()
    if child == 0:
        asked.close()
        return _run(request, streams)
    for stream in streams:
        os.close(stream)
    asked.sendall(f"{child}\n".encode())
    ending = os.pidfd_open(child)
    ready, _, _ = select.select([asked, ending], [], [])
    if ending not in ready:  # nobody waits for it any more
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        asked.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _run(request: dict[str, object], streams: list[int]) -> int | None:
    """Be the interpreter that was started with these words, from here on."""
    words, folder, environment = request["words"], request["cwd"], request["env"]
    assert isinstance(words, list) and isinstance(folder, str) and isinstance(environment, dict)
    for number, stream in zip((1, 2), streams, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    given = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:0] = ["", *(os.path.abspath(place) for place in given)]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    if "torch" in sys.modules and "OMP_NUM_THREADS" in environment:
        sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    elif words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        sys.path[0] = os.path.dirname(os.path.abspath(words[0]))
        runpy.run_path(words[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    place = sys.argv[1]
    del sys.path[0]  # the folder of this file
    for library in LIBRARIES:
        importlib.import_module(library)
    psutil.cpu_percent = lambda interval=None: 0.0  # RecBole waits a second for it, for a line of its log
    code = serve(place)
    if code is None:  # the server itself, at its end
        for path in (place, f"{place}.lock"):
            os.unlink(path)
    sys.exit(code)
