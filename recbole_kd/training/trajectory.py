"""Trajectory: checkpoints of a training, kept while it runs, a bounded number of them whatever its length."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recbole_kd.errors import TrainingError
from recbole_kd.storage.files import write_json
from recbole_kd.storage.json_files import read_json

KEPT_PER_CHECKPOINT = 4
"""So many snapshots are kept for each wanted checkpoint: the chosen ones are within an eighth to a quarter of their spacing of where they
should be."""


def evenly_spaced(best: int, n: int) -> list[int]:
    """n epochs up to the best, which is the last of them; all from 0 where there are fewer."""
    epochs = best + 1
    return list(range(epochs)) if epochs <= n else [round((place + 1) * epochs / n) - 1 for place in range(n)]


class Trajectory:
    """Snapshots of a model's weights; :meth:`after_epoch` is the ``callback_fn`` of a trainer's ``fit``.

    Epochs whose number (from 1) is a multiple of the spacing are kept. When there are too many, the spacing doubles; of those that then
    fall out, the ones that the best epoch so far would choose stay.

    Args:
        folder: of the snapshots; other files in it stay. n: checkpoints wanted at the end, the best epoch's among them.
    """

    def __init__(self, folder: Path, n: int) -> None:
        self.folder = folder
        self.n = n
        self.best = -1
        self._spacing = 1
        self._trainer: Any = None

    def follow(self, trainer: Any, resumed: bool) -> None:
        """Start with a trainer that is about to fit, or that continues an interrupted training from its state."""
        self._trainer = trainer
        index = self.folder / "spacing.json"
        if resumed and index.is_file():
            self._spacing, self.best = _spacing_in(index), trainer.best_epoch
            return
        for kept in self._kept():
            self._file(kept).unlink()
        self._space(max(1, int(trainer.eval_step)))

    def after_epoch(self, epoch: int, score: float) -> None:
        """Keep the epoch that has just been validated, if it is one to keep."""
        if self._trainer.cur_step == 0:
            self.best = epoch
        if (epoch + 1) % self._spacing:
            return
        path = self._file(epoch)
        temporary = path.with_suffix(f".{os.getpid()}")
        torch.save(self._trainer.model.state_dict(), temporary)
        os.replace(temporary, path)
        if sum((kept + 1) % self._spacing == 0 for kept in self._kept()) > KEPT_PER_CHECKPOINT * self.n:
            self._space(2 * self._spacing)
            wanted = set(self.chosen())
            for kept in self._kept():
                if (kept + 1) % self._spacing and kept not in wanted:
                    self._file(kept).unlink()

    def chosen(self) -> list[int]:
        """The kept epochs nearest to evenly spaced ones up to the best so far, oldest first; the best is the last of them."""
        before = [kept for kept in self._kept() if kept < self.best]
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

    def _space(self, spacing: int) -> None:
        write_json(self.folder / "spacing.json", {"spacing": spacing})
        self._spacing = spacing

    def _file(self, epoch: int) -> Path:
        return self.folder / f"{epoch}.pt"

    def _kept(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.pt") if path.stem.isdecimal())


def _spacing_in(index: Path) -> int:
    """Return the spacing of a kept trajectory.

    Raises:
        TrainingError: its index is damaged.
    """
    try:
        spacing = read_json(index)["spacing"]
        if type(spacing) is not int or spacing < 1:
            raise ValueError(f"spacing={spacing!r} is no number of epochs")
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{index} is damaged ({error}): delete the folder {index.parent.parent}, and it is trained again") from None
    return spacing
