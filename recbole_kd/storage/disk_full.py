"""Turn each library's disk-full error into one StorageError."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from recbole_kd.errors import StorageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CUT_SHORT = re.compile(
    r"No space left|Disk quota|inline_container|PytorchStreamWriter|iostream error|requested and \d+ written"
)
"""Texts of torch, safetensors and numpy on a write that was cut short; none of them gives an error number."""


@contextmanager
def full_disk_is_said(place: Path, ends: str) -> Iterator[None]:
    """Turn disk-full errors into one sentence; all other errors pass.

    Args:
        place: path below which the block writes.
        ends: end of the sentence: what the user can do after making room.

    Raises:
        StorageError: the disk is full.
    """
    before = threading.excepthook

    def in_a_thread(args: threading.ExceptHookArgs) -> None:  # TensorBoard's writer also raises it in the main thread
        if not isinstance(args.exc_value, Exception) or not _no_room(args.exc_value):
            before(args)

    threading.excepthook = in_a_thread
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _no_room(error):
            raise
        words = " ".join(str(error).split())
        raise StorageError(
            f"There is no room on the disk of {place} ({type(error).__name__}: {words[:200]}): {ends}"
        ) from error
    finally:
        threading.excepthook = before


def _no_room(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    words = str(error)
    return CUT_SHORT.search(words) is not None and "PytorchStreamReader" not in words  # the reader: a damaged file
