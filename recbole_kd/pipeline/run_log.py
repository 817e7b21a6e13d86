"""The log of a run: RecBole's format, on the screen and in the run's own folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import colorlog
from recbole.utils.logger import RemoveColorFilter, log_colors_config

from recbole_kd.errors import KDError


class _File(logging.FileHandler):
    """A log whose disk is full loses lines; what else finds no room there says so, once."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def logging_to(path: Path, state: str | None = None) -> Iterator[None]:
    """RecBole's messages go to the screen and to ``path``; on leaving, the handlers are closed and what was before is put back.

    Args:
        state: RecBole's logging level by name, such as INFO.
    """
    level = getattr(logging, (state or "INFO").upper())
    date = "%d %b %H:%M:%S"
    to_screen = logging.StreamHandler()
    to_screen.setFormatter(
        colorlog.ColoredFormatter(
            "%(log_color)s%(asctime)-15s %(levelname)s  %(message)s", date, log_colors=log_colors_config
        )
    )
    to_file = _File(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)-15s %(levelname)s  %(message)s", date))
    to_file.addFilter(RemoveColorFilter())
    root = logging.getLogger()
    before, before_level = root.handlers[:], root.level
    root.handlers[:] = [to_screen, to_file]
    root.setLevel(level)
    try:
        yield
    except Exception as error:
        if not isinstance(error, KDError):
            _keep_traceback(to_file, error)
        raise
    finally:
        root.handlers[:] = before
        root.setLevel(before_level)
        to_file.close()


def _keep_traceback(log: logging.FileHandler, error: Exception) -> None:
    """Write an unexpected error's traceback to the log alone, and let the error know where it stands."""
    trace = (type(error), error, error.__traceback__)
    log.emit(logging.LogRecord(__name__, logging.ERROR, __file__, 0, "internal error", None, trace))
    with suppress(AttributeError):
        error.recbole_kd_log = log.baseFilename  # type: ignore[attr-defined]


def log_of(error: BaseException) -> str | None:
    """Path of the log that holds an error's traceback, None where none does."""
    return getattr(error, "recbole_kd_log", None)
