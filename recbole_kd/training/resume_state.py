"""The state a training needs to continue as if it had never stopped."""

from __future__ import annotations

import contextlib
import glob
import os
import pickle
import random
import shutil
import tempfile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbole_kd.errors import TrainingError

if TYPE_CHECKING:
    from recbole_kd.training.trainer import KDTrainer

SHARE_OF_TIME = 0.1
"""Writing the state may cost this share of the training time: a large model's state is not written after every short epoch."""


class TrainingState:
    """Last-epoch state on disk: weights, optimiser, early stopping, histories and every random generator.

    The file holds tensors and plain values only, is read with ``weights_only=True``, and is replaced atomically. A copy of the best
    checkpoint so far lies beside it, under a name that the state holds, so that both are always of the same epoch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._loader: Any = None
        self._written_at = -float("inf")
        self._cost = 0.0
        self._best: str | None = None
        self._best_is_of: tuple[int, ...] = ()

    def attach(self, trainer: KDTrainer, loader: Any) -> None:
        """Before a training's first epoch. Whoever trains here holds the entry: half-written files are those of a killed process."""
        self._loader = loader
        if trainer.ranks is None or trainer.ranks.leads:
            self._forget_half_written()
            if not self.exists():
                self._forget_others(None)

    def save(self, trainer: KDTrainer, epoch: int) -> None:
        """Write the state after an epoch, unless the last writing is too recent for its cost.

        A distiller's item sets are not kept: only an epoch before new ones are drawn can be continued from.
        """
        if trainer.distiller is not None and (epoch + 1) % trainer.distiller.refresh:
            return
        started = perf_counter()
        if started - self._written_at < self._cost / SHARE_OF_TIME:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self._best
        temporary = self.path.with_suffix(f".{os.getpid()}")
        try:
            self._keep_best(Path(trainer.saved_model_file))
            torch.save(self._collect(trainer, epoch), temporary)
            os.replace(temporary, self.path)
        except Exception:  # no room: the state before this one can be continued
            temporary.unlink(missing_ok=True)
            if self._best not in (None, before):
                self.path.with_name(str(self._best)).unlink(missing_ok=True)
            self._best, self._best_is_of = before, ()
            raise
        self._forget_others(self._best)
        self._written_at = perf_counter()
        self._cost = self._written_at - started

    def remove(self) -> None:
        """Forget the state of a training that is finished."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self._forget_others(None)
        self._forget_half_written()

    def _keep_best(self, checkpoint: Path) -> None:
        """Copy the best checkpoint, file to file: with its optimiser it is three times the model, and is not read into memory for this."""
        if not checkpoint.is_file():
            return
        stat = checkpoint.stat()
        version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if version != self._best_is_of:
            handle, name = tempfile.mkstemp(prefix=self._best_prefix, dir=self.path.parent)
            os.close(handle)
            try:
                shutil.copyfile(checkpoint, name)
            except OSError:
                os.unlink(name)
                raise
            self._best, self._best_is_of = Path(name).name, version

    def _forget_others(self, kept: str | None) -> None:
        for path in self.path.parent.glob(f"{glob.escape(self._best_prefix)}*"):
            if path.name != kept:
                path.unlink(missing_ok=True)

    def _forget_half_written(self) -> None:
        for path in self.path.parent.glob(f"{glob.escape(self.path.stem)}.*"):
            if path.suffix[1:].isdigit():
                path.unlink(missing_ok=True)

    @property
    def _best_prefix(self) -> str:
        return f"{self.path.name}.best-"

    def _collect(self, trainer: KDTrainer, epoch: int) -> dict[str, Any]:
        distiller = trainer.distiller
        numpy_state: Any = np.random.get_state(legacy=True)
        return {
            "epoch": epoch,
            "model": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "distiller": None if distiller is None else distiller.state_dict(),
            "sampling": None if distiller is None else distiller.sampling_state(),
            "cur_step": trainer.cur_step,
            "best_epoch": trainer.best_epoch,
            "best_valid_score": float(trainer.best_valid_score),
            "best_valid_result": None if trainer.best_valid_result is None else {k: float(v) for k, v in trainer.best_valid_result.items()},
            "histories": {name: list(getattr(trainer, name)) for name in HISTORIES},
            "train_loss": {int(k): float(v) for k, v in trainer.train_loss_dict.items()},
            "best_file": self._best,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy_rng": [numpy_state[0], torch.from_numpy(numpy_state[1].astype(np.int64)), *map(float, numpy_state[2:])],
            "python_rng": list(random.getstate()[1]),
            "loader_rng": self._loader.generator.get_state(),
        }  # fmt: skip

    def exists(self) -> bool:
        """Whether there is a training to continue."""
        return self.path.is_file()

    def restore(self, trainer: KDTrainer, loader: Any) -> None:
        """Put the saved state back into a fresh trainer.

        Raises:
            TrainingError: the file is damaged, or the best checkpoint beside it is gone.
        """
        try:
            state = torch.load(self.path, map_location=trainer.device, weights_only=True)
            if state["best_file"] is not None:
                shutil.copyfile(self.path.with_name(state["best_file"]), trainer.saved_model_file)
        except (OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(f"{self.path} cannot be continued from ({reason}): delete it, or run with --resume=False") from None
        trainer.start_epoch = state["epoch"] + 1
        trainer.model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        if trainer.distiller is not None:
            trainer.distiller.load_state_dict(state["distiller"])
            trainer.distiller.restore_sampling({k: v.cpu() if torch.is_tensor(v) else v for k, v in state["sampling"].items()})
        trainer.cur_step, trainer.best_epoch = state["cur_step"], state["best_epoch"]
        trainer.best_valid_score = state["best_valid_score"]
        trainer.best_valid_result = state["best_valid_result"]
        trainer.train_loss_dict = state["train_loss"]
        for name, values in state["histories"].items():
            setattr(trainer, name, values)
        _restore_generators(state, loader)


HISTORIES = ("history", "kd_loss", "epoch_seconds", "kd_seconds")


def _restore_generators(state: dict[str, Any], loader: Any) -> None:
    torch.set_rng_state(state["torch_rng"].cpu())
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])
    name, keys, position, has_gauss, cached = state["numpy_rng"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), int(position), int(has_gauss), cached))
    random.setstate((3, tuple(state["python_rng"]), None))
    loader.generator.set_state(state["loader_rng"].cpu())
