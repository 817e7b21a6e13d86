"""Processes that end by their parent's will alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes started within it never hear Ctrl-C, which a terminal sends to all of a group: their parent ends them, without noise.

    The signal mask of this thread is inherited; what arrives meanwhile is delivered to this process at leaving. Where
    there are no signal masks (Windows) nothing changes.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
