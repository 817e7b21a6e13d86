"""Trajectory: a bounded number of checkpoints of a training, kept while it runs."""

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
"""Snapshots kept per wanted checkpoint. The chosen ones are then off by at most a quarter of their spacing."""


def evenly_spaced(best: int, n: int) -> list[int]:
    """Return n evenly spaced epochs that end at the best, or all from 0 if there are fewer."""
    epochs = best + 1
    return list(range(epochs)) if epochs <= n else [round((place + 1) * epochs / n) - 1 for place in range(n)]


class Trajectory:
    """Snapshots of a model's weights during a training.

    :meth:`after_epoch` is the ``callback_fn`` of a trainer's ``fit``. Epochs whose number (from 1) is a multiple of the
    spacing are kept. When there are too many, the spacing doubles. Of the snapshots that no longer fit, those that the
    best epoch so far would choose stay.

    The state of a training and its snapshots belong together. The state lists the snapshots (:meth:`state`). Snapshots
    of a written state are removed only after the next state was written (:meth:`state_was_written`). A resumed training
    removes the snapshots that its state does not list (:meth:`load_state`).

    Args:
        folder: folder of the snapshots. Other files in it stay.
        n: number of checkpoints wanted at the end, including that of the best epoch.
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
        """Attach to a trainer before it fits, or after :meth:`load_state` of a resumed training."""
        self._trainer = trainer
        if resumed:
            return
        self._kept, self._needed, self.best = {}, set(), -1
        self._spacing = max(1, int(trainer.eval_step))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_others()

    def state(self) -> dict[str, Any]:
        """Return the snapshots' part of the training state: spacing, best epoch, SHA-256 of each."""
        return {"spacing": self._spacing, "best": self.best, "kept": dict(self._kept)}

    def state_was_written(self) -> None:
        """Remove the snapshots that only the previous state needed."""
        self._needed = set(self._kept)
        self._remove_others()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Return to the snapshots of a state and remove newer ones.

        Raises:
            TrainingError: a snapshot is missing or damaged.
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
        """Save a snapshot of the epoch just validated if its number fits the spacing."""
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
        """Return the kept epochs nearest to evenly spaced ones, oldest first, the best last."""
        before = [kept for kept in sorted(self._kept) if kept < self.best]
        chosen = {self.best}
        for wanted in reversed(evenly_spaced(self.best, self.n)[:-1]):
            left = [kept for kept in before if kept not in chosen]
            if left:
                chosen.add(min(left, key=lambda kept: (abs(kept - wanted), kept)))
        return sorted(chosen)

    def replay(self, model: nn.Module) -> Iterator[int]:
        """Load each chosen epoch before the best into the model and yield its number.

        The oldest comes first.
        Afterwards the model has its original weights.
        """
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
