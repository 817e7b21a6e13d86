"""Trajectory: checkpoints of a training, kept while it runs, a bounded number of them whatever its length."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recbole_kd.errors import TrainingError
from recbole_kd.storage.digests import file_sha256

KEPT_PER_CHECKPOINT = 4
"""So many snapshots are kept for each wanted checkpoint: the chosen ones are within an eighth to a quarter of their spacing of where they
should be."""


def evenly_spaced(best: int, n: int) -> list[int]:
    """n epochs up to the best, which is the last of them; all from 0 where there are fewer."""
    epochs = best + 1
    return list(range(epochs)) if epochs <= n else [round((place + 1) * epochs / n) - 1 for place in range(n)]


class Trajectory:
    """Snapshots of a model's weights; :meth:`after_epoch` is the ``callback_fn`` of a trainer's ``fit``.

    Epochs whose number (from 1) is a multiple of the spacing are kept. When there are too many, the spacing doubles; of
    those that then fall out, the ones that the best epoch so far would choose stay.

    A training's state and its snapshots belong together: the state lists the snapshots (:meth:`state`), snapshots of a
    written state are removed only after the next one was written (:meth:`state_was_written`), and a training that is
    continued drops those that its state does not list (:meth:`load_state`).

    Args:
        folder: of the snapshots; other files in it stay. n: checkpoints wanted at the end, the best epoch's among them.
    """

    def __init__(self, folder: Path, n: int) -> None:
        self.folder = folder
        self.n = n
        self.best = -1
        self._spacing = 1
        self._trainer: Any = None
        self._kept: dict[int, str] = {}
        self._needed: set[int] = set()

    def follow(self, trainer: Any, resumed: bool) -> None:
        """Start with a trainer that is about to fit, or that continues an interrupted training after :meth:`load_state`."""
        self._trainer = trainer
        if resumed:
            return
        self._kept, self._needed, self.best = {}, set(), -1
        self._spacing = max(1, int(trainer.eval_step))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_others()

    def state(self) -> dict[str, Any]:
        """Return what a training's state has to say of its snapshots: the spacing, the best epoch, and each snapshot's SHA-256."""
        return {"spacing": self._spacing, "best": self.best, "kept": dict(self._kept)}

    def state_was_written(self) -> None:
        """Remove the snapshots that only the state before this one needed."""
        self._needed = set(self._kept)
        self._remove_others()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go back to the snapshots of a state; newer ones are removed.

        Raises:
            TrainingError: a snapshot is gone or damaged.
        """
        self._spacing, self.best, self._kept = int(state["spacing"]), int(state["best"]), dict(state["kept"])
        self._needed = set(self._kept)
        for epoch, digest in self._kept.items():
            path = self._file(epoch)
            if not path.is_file() or file_sha256(path) != digest:
                raise TrainingError(
                    f"The snapshot {path} is missing or damaged: run with --resume=False, which trains from the "
                    "beginning"
                )
        self._remove_others()

    def after_epoch(self, epoch: int, score: float) -> None:
        """Keep the epoch that has just been validated, if it is one to keep."""
        if self._trainer.cur_step == 0:
            self.best = epoch
        if (epoch + 1) % self._spacing:
            return
        path = self._file(epoch)
        temporary = path.with_suffix(f".{os.getpid()}")
        torch.save(self._trainer.model.state_dict(), temporary)
        digest = file_sha256(temporary)
        os.replace(temporary, path)
        self._kept[epoch] = digest
        if sum((kept + 1) % self._spacing == 0 for kept in self._kept) > KEPT_PER_CHECKPOINT * self.n:
            self._spacing *= 2
            wanted = set(self.chosen())
            self._kept = {
                kept: digest for kept, digest in self._kept.items() if (kept + 1) % self._spacing == 0 or kept in wanted
            }
            self._remove_others()

    def chosen(self) -> list[int]:
        """The kept epochs nearest to evenly spaced ones up to the best so far, oldest first; the best is the last of them."""
        before = [kept for kept in sorted(self._kept) if kept < self.best]
        chosen = {self.best}
        for wanted in reversed(evenly_spaced(self.best, self.n)[:-1]):
            left = [kept for kept in before if kept not in chosen]
            if left:
                chosen.add(min(left, key=lambda kept: (abs(kept - wanted), kept)))
        return sorted(chosen)

    def replay(self, model: nn.Module) -> Iterator[int]:
        """Load each chosen epoch before the best into the model, oldest first, and yield its number; the model is given back as it was."""
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        device = next(model.parameters()).device if list(model.parameters()) else torch.device("cpu")
        try:
            for epoch in self.chosen()[:-1]:
                model.load_state_dict(torch.load(self._file(epoch), map_location=device, weights_only=True))
                yield epoch
        finally:
            model.load_state_dict(before)

    def _file(self, epoch: int) -> Path:
        return self.folder / f"{epoch}.pt"

    def _remove_others(self) -> None:
        """Remove the snapshots that neither this training nor its last written state needs."""
        for path in self.folder.glob("*.pt"):
            if path.stem.isdecimal() and int(path.stem) not in self._needed | set(self._kept):
                path.unlink()
