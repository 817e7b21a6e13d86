"""A disk that is full, said in a sentence: each library has another error for it."""

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
"""What torch, safetensors and numpy say of a write that was cut short; none of them says an error number."""


@contextmanager
def full_disk_is_said(place: Path, ends: str) -> Iterator[None]:
    """Turn the errors of a write that found no room into one sentence; all others pass.

    Args:
        place: below which the block writes. ends: of the sentence, what can be done after room was made.

    Raises:
        StorageError: there was no room.
    """
    before = threading.excepthook

    def in_a_thread(args: threading.ExceptHookArgs) -> None:  # TensorBoard's writer raises it again in the main thread
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
    return CUT_SHORT.search(words) is not None and "PytorchStreamReader" not in words  # that one reads a damaged file
