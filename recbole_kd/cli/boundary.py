"""The boundary of the program: every error becomes one line and an exit code.

0 done, 1 a part of the work failed, 2 bad input or environment (one sentence), 70 an internal error, 130 and 143
interrupted.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from recbole_kd.cli.interrupts import Interrupted, interrupts
from recbole_kd.errors import KDError
from recbole_kd.startup.recbole_missing import RECBOLE_MISSING

BAD_INPUT = 2
INTERNAL_ERROR = 70

NO_MEMORY = re.compile(r"can't allocate memory|out of memory|can't start new thread|bad_alloc", re.IGNORECASE)
"""What torch and Python say of memory in errors that are no MemoryError."""

Job = Callable[[list[str]], int]


def answer(job: Job, words: list[str], goes_on: str = "") -> int:
    """Run a command and return its exit code, with one line on stderr for an error.

    Args:
        job: the command.
        words: its arguments. ``--debug`` shows the traceback of an internal error.
        goes_on: how to continue an interrupted command.
    """
    debug = "--debug" in words
    interrupted = "; ".join(filter(None, ["interrupted", goes_on]))
    _open_streams()
    try:
        with interrupts(interrupted):
            code = job([word for word in words if word != "--debug"])
            if sys.stdout is not None:
                sys.stdout.flush()
        return code
    except Interrupted as interrupt:
        _say(interrupted)
        return interrupt.code
    except SystemExit as end:  # argparse, after --help
        return end.code if isinstance(end.code, int) else 0
    except KDError as error:
        _say(f"error: {error}")
        return BAD_INPUT
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "recbole":
            return _internal(error, debug)
        _say(f"error: {RECBOLE_MISSING}")
        return BAD_INPUT
    except (OSError, MemoryError, RuntimeError) as error:
        unexpected = isinstance(error, OSError) and error.errno is None
        if unexpected or (isinstance(error, RuntimeError) and not NO_MEMORY.search(str(error))):
            return _internal(error, debug)
        _say(f"error: {_sentence(error)}")
        return BAD_INPUT
    except ValueError as error:
        if "embedded null" not in str(error):
            return _internal(error, debug)
        _say("error: A name or a path holds a NUL character, which no file can have in its name: write it without.")
        return BAD_INPUT
    except Exception as error:
        return _internal(error, debug)
    finally:
        _let_go_of_closed_streams()


def _sentence(error: OSError | MemoryError | RuntimeError) -> str:
    """Return a sentence on what the system refused."""
    if not isinstance(error, OSError):
        words = " ".join(str(error).split())[:200] or "no reason is given"
        return f"There is not enough memory ({words}): free some, or make the run smaller."
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return "The output was closed before everything was printed."
    if error.filename is None and not _working_folder_is_there():
        return "The working folder does not exist any more: change to one that exists (cd), and run the command again."
    places = " and ".join(repr(str(name)) for name in (error.filename, error.filename2) if name is not None)
    return (
        f"{places} cannot be used: {error.strerror}." if places else f"The system refused something: {error.strerror}."
    )


def _working_folder_is_there() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _internal(error: Exception, debug: bool) -> int:
    """Report an internal error, with its traceback on the screen (--debug) or in a file."""
    words = " ".join(str(error).split())
    if debug:
        traceback.print_exception(error)
        where = "the traceback is above"
    else:
        log = _log_of(error) or _write_log(error)
        where = f"the traceback is in {log}" if log else "--debug shows the traceback"
    _say(f"internal error: {type(error).__name__}: {words[:300]} ({where}); please report it")
    return INTERNAL_ERROR


def _log_of(error: Exception) -> str | None:
    """Return the log of the run in which an error was raised, or None."""
    with suppress(ImportError):  # RecBole may be missing or broken
        from recbole_kd.pipeline.run_log import log_of  # here: --help should not wait for RecBole

        return log_of(error)
    return None


def _write_log(error: Exception) -> str | None:
    """Write the traceback into the system's temporary folder; return its path, or None."""
    name = f"recbole-kd-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with suppress(OSError):
        path = os.path.join(tempfile.gettempdir(), name)
        with open(path, "w", encoding="utf-8") as handle:
            traceback.print_exception(error, file=handle)
        return path
    return None


def _say(line: str) -> None:
    """Print one line on the error stream, if there is still one."""
    with suppress(OSError, ValueError):
        print(" ".join(line.split("\n")), file=sys.stderr, flush=True)


def _open_streams() -> None:
    """Open closed standard streams to nowhere.

    Otherwise the next opened file would take their number and be printed into.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one


def _let_go_of_closed_streams() -> None:
    """Drop unprinted output, so that the interpreter does not fail when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError, AttributeError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
