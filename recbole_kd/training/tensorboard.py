"""Where TensorBoard's scalars do not go: RecBole opens a writer in the working folder whenever a trainer is made."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from recbole_kd.data.fingerprint import digest


@contextmanager
def without_recbole_scalars() -> Iterator[None]:
    """RecBole's trainers open a writer below ./log_tensorboard when they are made: what appears there inside the block is removed.

    The folder there is named after the log file, so all runs of one working folder open the same one: only one at a time may.
    """
    root = Path("log_tensorboard").absolute()
    lock = Path(tempfile.gettempdir()) / f"recbole_kd-{os.getuid()}-{digest(str(root).encode())}.lock"
    with FileLock(str(lock)):
        before = set(root.rglob("*"))
        yield
        new = {path for path in root.rglob("*") if path not in before}
        for path in sorted(new, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        with contextlib.suppress(OSError):  # not there, or not empty
            root.rmdir()
