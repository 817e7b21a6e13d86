"""Jobs in forked children of one warmed process, and how each of them ended.

Imports and compiling are paid once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.file_operations import killed_before, listed

Job = Callable[[list[str]], int]

HANG = 60.0
"""Seconds after which a job is taken to hang."""


@dataclass(frozen=True)
class Ending:
    """The end of a job: exit code, the signal that ended it (0: none), its output, seconds, and whether it was
    killed."""

    code: int
    signal: int
    out: str
    err: str
    seconds: float
    hung: bool

    @property
    def errors(self) -> list[str]:
        """Its lines that begin with ``error: ``."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    def problem(self, *codes: int) -> str | None:
        """Return what is wrong with such an ending, or None.

        Allowed are 0, 1 and 2 with one sentence, and the given codes.
        """
        told = (self.errors or self.err.strip().splitlines() or ["(nothing)"])[-1][:300]
        if self.hung:
            return f"hangs: {told}"
        for mark in ("Traceback (most recent call last)", "internal error", "Exception ignored"):
            if mark in self.err:
                return f"{mark}: {told}"
        if self.signal:
            return f"ended by signal {self.signal}: {told}"
        if self.code == 0 or self.code in codes or (self.code in (1, 2) and len(self.errors) == 1):
            return None
        return f"code {self.code} with {len(self.errors)} sentences: {told}"


def forked(
    job: Job,
    words: Sequence[str],
    folder: Path,
    *,
    before: Callable[[], object] = lambda: None,
    list_below: Path | None = None,
    kill_before: tuple[int, Path] | None = None,
    signal_after: tuple[float, signal.Signals] | None = None,
    timeout: float = HANG,
) -> Ending:
    """Run ``job(words)`` in a forked child, in a session and a working folder of its own.

    Args:
        folder: working folder, made where it is missing; .out, .err and .operations are written there. before: called
            in the child. list_below: its file operations below this place are listed in ``folder/.operations``.
        kill_before: number of the file operation before which it is killed, and the place below which they count.
        signal_after: seconds, and the signal that its whole group then gets. timeout: seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid == 0:
        _child(job, list(words), folder, before, list_below, kill_before)
    status, hung = _waited(pid, started, signal_after, timeout)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # what it started and left behind
    signum = os.WTERMSIG(status) if os.WIFSIGNALED(status) and not hung else 0
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + signum
    files = (folder / name for name in (".out", ".err"))  # missing where it was killed before it began
    out, err = (file.read_text(errors="replace") if file.exists() else "" for file in files)
    return Ending(code, signum, out, err, time.monotonic() - started, hung)


def operations(folder: Path) -> list[str]:
    """Return the operations that a job with ``list_below`` left in its working folder."""
    return (folder / ".operations").read_text().splitlines()


def _child(
    job: Job,
    words: list[str],
    folder: Path,
    before: Callable[[], object],
    list_below: Path | None,
    kill_before: tuple[int, Path] | None,
) -> None:
    """Do the job in this process, which then ends."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        for number, name in ((1, ".out"), (2, ".err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with ExitStack() as stack:
            if list_below is not None:
                stack.enter_context(listed([list_below], folder / ".operations"))
            if kill_before is not None:
                stack.enter_context(killed_before(kill_before[0], [kill_before[1]]))
            before()
            code = job(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _waited(
    pid: int, started: float, signal_after: tuple[float, signal.Signals] | None, timeout: float
) -> tuple[int, bool]:
    """Wait for a child, signal it, kill it at the timeout; return its status and whether it hung."""
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status, False
        lasted = time.monotonic() - started
        if signal_after is not None and lasted > signal_after[0]:
            _send(pid, signal_after[1])
            signal_after = None
        if lasted > timeout:
            _send(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1], True
        time.sleep(0.002)


def _send(pid: int, signum: signal.Signals) -> None:
    try:
        os.killpg(pid, signum)
    except ProcessLookupError:  # it has no session of its own yet
        os.kill(pid, signum)
