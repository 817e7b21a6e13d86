"""Start of child processes that only their parent ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


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
