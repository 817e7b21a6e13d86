"""The TensorBoard writer of a training."""

from __future__ import annotations

import mmap
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

THREAD_BYTES = 16 << 20
"""Address space for a new thread: its stack (usually 8 MiB) and its first allocations."""


def scalar_writer(folder: Path) -> SummaryWriter:
    """Return a TensorBoard writer of a folder, which has its own thread.

    Raises:
        MemoryError: there is no memory for the thread, and Python would wait for it without end.
    """
    try:
        mmap.mmap(-1, THREAD_BYTES).close()
    except OSError as error:
        raise MemoryError(f"{THREAD_BYTES >> 20} MiB for a thread: {error.strerror}") from error
    return SummaryWriter(str(folder))
