"""Files that resume an interrupted training: its last state and the best checkpoint."""

from __future__ import annotations

import contextlib
import glob
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from recbole_kd.errors import TrainingError
from recbole_kd.storage.digests import file_sha256
from recbole_kd.storage.integrity import is_sealed, seal

SHARE_OF_TIME = 0.1
"""Share of the training time that writing the state may take. A large model's state is not written after every
epoch."""


class StateFile:
    """The state of a training after an epoch, on disk.

    The file holds only tensors and plain values, is read with ``weights_only=True``, and is replaced atomically. A copy
    of the best checkpoint so far is next to it, under a name that the state holds, so that both are always of the same
    epoch. The file ends with its SHA-256. It holds the SHA-256 of the best checkpoint and the name of its cache entry.
    All three are checked when a training is resumed.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written_at = -float("inf")
        self._cost = 0.0
        self._best: str | None = None
        self._best_version: tuple[int, ...] = ()
        self._best_sha256 = ""

    def exists(self) -> bool:
        """Return whether there is a training to resume."""
        return self.path.is_file()

    def clean_up(self) -> None:
        """Remove the files that a killed process left next to the state.

        The caller holds the cache lock, so half-written files are stale.
        """
        self._remove_half_written()
        if not self.exists():
            self._remove_checkpoints(kept=None)

    @property
    def _identity(self) -> str:
        """The cache entry of the state: folder and file names contain the digest of its settings."""
        return f"{self.path.parent.name}/{self.path.name}"

    def save(self, collect: Callable[[], Mapping[str, Any]], checkpoint: Path, always: bool = False) -> bool:
        """Write the state and a copy of the best checkpoint, unless it was written recently.

        How recent depends on the time that the last write took (SHARE_OF_TIME).

        Args:
            collect: returns the state. It is called only if the state is written.
            checkpoint: file of the best epoch so far.
            always: write it however recent the last one is.

        Returns:
            True if the state was written.
        """
        started = perf_counter()
        if not always and started - self._written_at < self._cost / SHARE_OF_TIME:
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self._best
        temporary = self.path.with_suffix(f".{os.getpid()}")
        try:
            self._copy_best(checkpoint)
            best = {"best_file": self._best, "best_sha256": self._best_sha256}
            torch.save({**collect(), **best, "identity": self._identity}, temporary)
            seal(temporary)
            os.replace(temporary, self.path)
        except Exception:  # such as a full disk: the previous state can still be resumed
            temporary.unlink(missing_ok=True)
            if self._best not in (None, before):
                self.path.with_name(str(self._best)).unlink(missing_ok=True)
            self._best, self._best_version = before, ()
            raise
        self._remove_checkpoints(kept=self._best)
        self._written_at = perf_counter()
        self._cost = self._written_at - started
        return True

    def load(self, checkpoint: Path, device: torch.device) -> dict[str, Any]:
        """Return the saved state, and copy the best checkpoint back to ``checkpoint``.

        Raises:
            TrainingError: the file is damaged or of another training, or the best checkpoint is missing or damaged.
        """
        try:
            if not is_sealed(self.path):
                raise ValueError("its SHA-256 differs from the one written")
            state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
            if state["identity"] != self._identity:
                raise ValueError(f"it belongs to {state['identity']}")
            if state["best_file"] is not None:
                best = self.path.with_name(state["best_file"])
                if file_sha256(best) != state["best_sha256"]:
                    raise ValueError(f"the SHA-256 of {best.name} next to it differs from the one written")
                shutil.copyfile(best, checkpoint)
        except (OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"{self.path} cannot be continued from ({reason}): delete it, or run with --resume=False"
            ) from None
        return state

    def remove(self) -> None:
        """Remove all files of a finished training."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self._remove_checkpoints(kept=None)
        self._remove_half_written()

    def _copy_best(self, checkpoint: Path) -> None:
        """Copy the best checkpoint as a file.

        With the optimiser it is three times the model's size, so it is not read into memory.
        """
        if not checkpoint.is_file():
            return
        stat = checkpoint.stat()
        version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if version != self._best_version:
            handle, name = tempfile.mkstemp(prefix=self._best_prefix, dir=self.path.parent)
            os.close(handle)
            try:
                shutil.copyfile(checkpoint, name)
            except OSError:
                os.unlink(name)
                raise
            self._best, self._best_version, self._best_sha256 = Path(name).name, version, file_sha256(Path(name))

    def _remove_checkpoints(self, kept: str | None) -> None:
        for path in self.path.parent.glob(f"{glob.escape(self._best_prefix)}*"):
            if path.name != kept:
                path.unlink(missing_ok=True)

    def _remove_half_written(self) -> None:
        for path in self.path.parent.glob(f"{glob.escape(self.path.stem)}.*"):
            if path.suffix[1:].isdigit():
                path.unlink(missing_ok=True)

    @property
    def _best_prefix(self) -> str:
        return f"{self.path.name}.best-"
