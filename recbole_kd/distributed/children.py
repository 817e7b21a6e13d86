"""Start of child processes that only their parent ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[2]
"""Folder that contains this package."""

IMPORTED_ONCE = "recbole_kd.pipeline.quick_start"


def fresh_processes() -> BaseContext:
    """Return the context of processes that share no state with this one.

    Where the system can, they are forked from a server that has imported this package and done nothing else. This
    saves the seconds that each import of RecBole and torch costs. Their environment variables are those of the
    server's start.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing.forkserver import ensure_running

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([IMPORTED_ONCE])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGES), before]))  # it gets no sys.path of ours
    try:
        ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Make processes started in this block ignore Ctrl-C; their parent ends them.

    A terminal sends Ctrl-C to all processes of a group. The children inherit the signal mask of this thread; an
    interrupt that arrives meanwhile is delivered to this process at exit. On systems without signal masks (Windows)
    nothing changes.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
