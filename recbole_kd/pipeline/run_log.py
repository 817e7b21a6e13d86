"""The log of a run: messages in the run's folder, stages and warnings on the screen."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from recbole.utils.logger import RemoveColorFilter

from recbole_kd.errors import KDError
from recbole_kd.pipeline.screen import PYTHON_WARNINGS, ScreenHandler


class _File(logging.FileHandler):
    """A log file that drops lines when the disk is full; other writers report the full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def logging_to(path: Path, state: str | None = None) -> Iterator[ScreenHandler]:
    """Write all messages to ``path``, and stages and warnings to the screen, during a block.

    At the end the handlers are closed and the previous ones restored.

    Args:
        path: the log file.
        state: RecBole's logging level by name, such as INFO.

    Yields:
        The handler that shows lines on the screen.
    """
    level = getattr(logging, (state or "INFO").upper())
    date = "%d %b %H:%M:%S"
    to_screen = ScreenHandler(sys.stderr)
    to_file = _File(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)-15s %(levelname)s  %(message)s", date))
    to_file.addFilter(RemoveColorFilter())
    root = logging.getLogger()
    before, before_level = root.handlers[:], root.level
    root.handlers[:] = [to_screen, to_file]
    root.setLevel(level)
    try:
        with _warnings_in_log():
            yield to_screen
    except Exception as error:
        if not isinstance(error, KDError):
            _keep_traceback(to_file, error)
        raise
    finally:
        to_screen.keep()
        root.handlers[:] = before
        root.setLevel(before_level)
        to_file.close()


@contextmanager
def _warnings_in_log() -> Iterator[None]:
    """Write Python's warnings into the log, not onto the screen."""
    with warnings.catch_warnings():
        warnings.showwarning = _log_warning
        yield


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    logging.getLogger(PYTHON_WARNINGS).info(" ".join(text.split()))


def _keep_traceback(log: logging.FileHandler, error: Exception) -> None:
    """Write an unexpected error's traceback to the log only, and note the log in the error."""
    trace = (type(error), error, error.__traceback__)
    log.emit(logging.LogRecord(__name__, logging.ERROR, __file__, 0, "internal error", None, trace))
    with suppress(AttributeError):
        error.recbole_kd_log = log.baseFilename  # type: ignore[attr-defined]


def log_of(error: BaseException) -> str | None:
    """Return the path of the log that holds an error's traceback, or None."""
    return getattr(error, "recbole_kd_log", None)
