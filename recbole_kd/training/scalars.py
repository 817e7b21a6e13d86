"""TensorBoard's writer of a training."""

from __future__ import annotations

import mmap
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

THREAD_BYTES = 16 << 20
"""Address space that a new thread needs: its stack (8 MiB as a rule) and its first allocations."""


def scalar_writer(folder: Path) -> SummaryWriter:
    """Return a TensorBoard writer of a folder; it has a thread of its own.

    Raises:
        MemoryError: there is no memory for the thread. Python would wait for its start for ever.
    """
    try:
        mmap.mmap(-1, THREAD_BYTES).close()
    except OSError as error:
        raise MemoryError(f"{THREAD_BYTES >> 20} MiB for a thread: {error.strerror}") from error
    return SummaryWriter(str(folder))
