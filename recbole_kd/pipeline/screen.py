"""The screen output of a run: stages, one line per epoch and warnings."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from recbole_kd.pipeline.verdict import short
from recbole_kd.storage.screen_log import SCREEN, show
from recbole_kd.training.progress import EpochReport

PYTHON_WARNINGS = "py.warnings"
"""Logger of Python's own warnings, which go only to the log."""

EVERY = 10
"""Without a terminal, one in so many epochs is shown, and each that is the best so far."""

QUIET_SECONDS = 20.0
"""Without a terminal, a line is shown at least this often."""

BEST_SECONDS = 1.0
"""Without a terminal, best epochs within this time are shown once."""


class ScreenHandler(logging.Handler):
    """A handler that shows the lines of :data:`SCREEN` and warnings on a stream.

    On a terminal the last line is updated in place.

    Args:
        stream: the stream, such as ``sys.stderr``; None where that is closed, and nothing is shown.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self.stream = stream
        self.live = stream is not None and _is_terminal(stream)
        self._shown = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is a line for the screen or a warning."""
        if self.stream is None:
            return False
        return record.name == SCREEN or (record.levelno >= logging.WARNING and record.name != PYTHON_WARNINGS)

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record above the line that is updated in place."""
        text = record.getMessage()
        if record.name != SCREEN:
            text = f"{'warning' if record.levelno < logging.ERROR else 'error'}: {' '.join(text.split())}"
        with self._quietly():
            self._clear()
            print(text, file=self.stream, flush=True)

    def renew(self, text: str) -> None:
        """Show a line on a terminal, in place of the previous one shown by this method."""
        if self.stream is None:
            return
        with self.lock_of(), self._quietly():
            self._clear()
            self._shown = text[: max(_columns() - 1, 1)]
            print(self._shown, end="", file=self.stream, flush=True)

    def keep(self) -> None:
        """Keep the updated line and continue below it."""
        with self.lock_of(), self._quietly():
            if self._shown:
                print(file=self.stream, flush=True)
            self._shown = ""

    @contextmanager
    def lock_of(self) -> Iterator[None]:
        """Hold the handler's lock."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _clear(self) -> None:
        if self._shown:
            print("\r\x1b[2K", end="", file=self.stream)
            self._shown = ""

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Ignore errors of a closed stream, so that the run goes on."""
        with suppress(OSError, ValueError):
            yield


class Screen:
    """The display of stages and epochs, see :class:`recbole_kd.training.progress.Progress`.

    Args:
        handler: shows the lines.
        n_stages: number of stages of the run.
        epochs: False shows no epochs (``show_progress=False``).
    """

    def __init__(self, handler: ScreenHandler, n_stages: int, epochs: bool = True) -> None:
        self.handler, self.n_stages, self.epochs = handler, n_stages, epochs
        self._stage = 0
        self._began = self._last = time.monotonic()
        self._line = ""
        self._best = ""
        self._open = False
        self._over = threading.Event()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Update the time in the last line, and show a line after long silences."""
        worker = threading.Thread(target=self._keep_alive, daemon=True, name="screen")
        if self.epochs:
            worker.start()
        try:
            yield
        finally:
            self._over.set()
            self._open = False
            if worker.is_alive():
                worker.join()
            self.handler.keep()

    def begin(self, title: str) -> None:
        """Start the next stage."""
        self.handler.keep()
        self._stage += 1
        self._line, self._best = "", ""
        self._began = self._last = time.monotonic()
        self._open = True
        show(f"[{self._stage}/{self.n_stages}] {title}")

    def epoch(self, report: EpochReport) -> None:
        """Show a finished epoch of the stage."""
        self._line = _words(report)
        if not self.epochs:
            return
        if self.handler.live:
            self._show_live()
            return
        now = time.monotonic()
        best = report.is_best and now - self._last >= BEST_SECONDS
        if report.epoch % EVERY == 0 or report.epoch == 1 or best or now - self._last >= QUIET_SECONDS:
            self._say()

    def end(self, text: str) -> None:
        """End the stage with a line on its result."""
        self._open = False
        if self.handler.live and self._line and self.epochs:
            self.handler.renew(self._timed())
        self.handler.keep()
        show(f"      {text}")

    def _timed(self) -> str:
        spent = int(time.monotonic() - self._began)
        return f"      {self._line or 'at work'} | {spent // 60:02d}:{spent % 60:02d}"

    def _show_live(self) -> None:
        self._last = time.monotonic()
        self.handler.renew(self._timed())

    def _say(self) -> None:
        self._last = time.monotonic()
        show(self._timed())

    def _keep_alive(self) -> None:
        while not self._over.wait(1.0):
            if not self._open:
                continue
            if self.handler.live:
                self._show_live()
            elif time.monotonic() - self._last >= QUIET_SECONDS:
                self._say()


def _words(report: EpochReport) -> str:
    """Return the line of an epoch.

    An example is ``epoch 12/300 | loss 0.41 | NDCG@10 .1291 best | patience 0/30``.
    """
    losses = []
    if report.base_loss is not None:
        losses.append(f"{'loss' if report.kd_loss is None else 'base'} {report.base_loss:.3g}")
    if report.kd_loss is not None and report.kd_weight is not None:
        losses.append(f"KD {report.kd_loss:.3g} x {report.kd_weight:g} = {report.kd_weight * report.kd_loss:.3g}")
    if report.grad_ratio is not None:
        losses.append(f"grad ratio {report.grad_ratio:.2g}")
    score = f"{report.metric} {short(report.score)}{' best' if report.is_best else ''}"
    patience = f"patience {report.waited}/{report.patience}"
    return " | ".join([f"epoch {report.epoch}/{report.epochs}", *losses, score, patience])


def _is_terminal(stream: TextIO) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
    return False


def _columns() -> int:
    with suppress(OSError, ValueError, AttributeError):
        return os.get_terminal_size(sys.stderr.fileno()).columns
    return 100
