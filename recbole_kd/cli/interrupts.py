"""Ctrl-C and SIGTERM, which end a command even if a library swallows the first."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from pathlib import PurePath
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

INSIST_SECONDS = 0.5
"""Seconds after which a swallowed interrupt is raised again."""

FAREWELL_SECONDS = 30
"""Seconds after which the process exits even if its clean-up is not finished."""


PROGRAMS = ("recbole-kd", "run_recbole_kd")
"""Names of the program's files, without suffix."""


def end_at_interrupts_of_imports() -> None:
    """Let a signal end the program in one line while its modules are imported.

    Other programs are not affected. Nothing has to be cleaned up at that time. :func:`interrupts` takes
    over when the command begins.
    """
    module_run = sys.orig_argv[1:3] == ["-m", "recbole_kd"]
    name = PurePath(sys.argv[0] if sys.argv else "").stem
    is_program = (module_run or name in PROGRAMS) and parent_process() is None
    if not is_program or threading.current_thread() is not threading.main_thread():
        return
    for signum in SIGNALS:
        if signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(signum, _end_now)


def _end_now(signum: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(128 + signum)


class Interrupted(KeyboardInterrupt):
    """A signal that ends the command; ``code`` is the usual exit code, 128 plus its number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.code = 128 + signum


class _Signals:
    """The signals received since the command began.

    Args:
        words: the line for a process that does not end by itself.
    """

    def __init__(self, words: str) -> None:
        self.first: int | None = None
        self._words = words
        self._over = threading.Event()
        self._sending = threading.Lock()

    def end(self) -> None:
        """Stop raising interrupts."""
        with self._sending:
            self._over.set()

    def hear(self, signum: int, frame: FrameType | None) -> None:
        """Raise at the first signal, and at later ones unless an interrupt is being handled."""
        if self.first is None:
            self.first = signum
            threading.Thread(target=self._insist, daemon=True).start()
        elif _in_flight(sys.exception()):
            return
        raise Interrupted(self.first)

    def _insist(self) -> None:
        """Raise the interrupt again until the command ends.

        An exception in a destructor or a callback is not passed on.
        """
        for _ in range(int(FAREWELL_SECONDS / INSIST_SECONDS)):
            self._over.wait(INSIST_SECONDS)
            with self._sending:
                if self._over.is_set():
                    return
                os.kill(os.getpid(), self.first or signal.SIGINT)
        with suppress(OSError, ValueError, AttributeError):
            print(self._words, file=sys.stderr, flush=True)
        os._exit(128 + (self.first or signal.SIGINT))


def _in_flight(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, Interrupted):
            return True
        error = error.__context__
    return False


@contextmanager
def interrupts(words: str = "interrupted") -> Iterator[None]:
    """Let SIGINT and SIGTERM raise :class:`Interrupted` during a block.

    This works in the main thread only. A signal that is ignored stays ignored.

    Args:
        words: printed if the block does not end within :data:`FAREWELL_SECONDS`, when the process is ended.

    Raises:
        Interrupted: a signal was received, at the latest at the end of the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, unraisable = _Signals(words), sys.unraisablehook

    def without_interrupts(args: Any) -> None:
        if not isinstance(args.exc_value, KeyboardInterrupt):
            unraisable(args)

    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    sys.unraisablehook = without_interrupts
    try:
        for signum, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(signum, heard.hear)
        yield
        if heard.first is not None:
            raise Interrupted(heard.first)
    finally:
        heard.end()
        for signum, handler in before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        sys.unraisablehook = unraisable
