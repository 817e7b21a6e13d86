"""File operations of this process, heard by Python's audit events.

They are counted, or the process ends just before one of them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHANGING = frozenset(
    {
        "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree",
        "shutil.copyfile", "shutil.move",
    }
)  # fmt: skip
"""Audit events that change a folder; ``open`` counts if it is for writing.

Writes of libraries in C++ have no event of their own: they lie between two of these.
"""

_act: Callable[[str], None] | None = None
_places: tuple[str, ...] = ()
_hooked = False


class Gone(BaseException):
    """The process is as good as killed: no later operation succeeds either."""


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _act is None or (event != "open" and event not in CHANGING):
        return
    if threading.current_thread() is not threading.main_thread():  # TensorBoard's writer would be waited for, for ever
        return
    if event == "open" and not _writes(arguments):
        return
    paths = [os.fsdecode(part) for part in arguments[:2] if isinstance(part, str | bytes | os.PathLike)]
    if any(path.startswith(_places) for path in paths):
        _act(f"{event} {' '.join(paths)}")


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    return bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR))


@contextmanager
def _heard(places: Sequence[Path], act: Callable[[str], None]) -> Iterator[None]:
    global _act, _places, _hooked
    if not _hooked:  # a hook cannot be removed, so it stays and does nothing
        sys.addaudithook(_hear)
        _hooked = True
    _act, _places = act, tuple(str(place) for place in places)
    try:
        yield
    finally:
        _act = None


@contextmanager
def listed(places: Sequence[Path], file: Path) -> Iterator[None]:
    """Write each operation below the places as a line of a file outside them."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with _heard(places, lambda line: os.write(handle, f"{line}\n".encode()) and None):
        yield
    os.close(handle)


@contextmanager
def killed_before(number: int, places: Sequence[Path], kill: bool = True) -> Iterator[None]:
    """End this process just before its number-th operation below the places, from 1.

    Args:
        kill: with SIGKILL; else that operation and each later one raise :class:`Gone`, so that no cleaning up succeeds
            either and the disk is as after a kill.
    """
    count = 0

    def act(line: str) -> None:
        nonlocal count
        count += 1
        if count >= number:
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Gone(line)

    with _heard(places, act):
        yield
