"""Where TensorBoard's scalars do not go: RecBole opens a writer in the working folder whenever a trainer is made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from recbole_kd.storage.digests import digest


@contextmanager
def without_recbole_scalars() -> Iterator[None]:
    """Remove what RecBole's trainers write below ./log_tensorboard when they are made inside the block.

    The folder there is named after the log file, so all runs of one working folder open the same one: only one at a time may. Only event
    files that bear this process's id are removed, and folders that are new and empty: another program may write there at the same time.
    """
    root = Path("log_tensorboard").absolute()
    lock = Path(tempfile.gettempdir()) / f"recbole_kd-{os.getuid()}-{digest(str(root).encode())}.lock"
    with FileLock(str(lock)):
        before = {root, *root.rglob("*")} if root.is_dir() else set()
        yield
        for path in set(root.rglob("*.tfevents.*")) - before:
            if f".{os.getpid()}." in path.name:
                _remove_with_folders(path, root, before)


def _remove_with_folders(path: Path, root: Path, before: set[Path]) -> None:
    """Remove a file, then the folders that held it up to ``root``, as long as they are new and empty."""
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder in before or not folder.is_relative_to(root):
            return
        try:
            folder.rmdir()
        except OSError:  # not empty
            return
