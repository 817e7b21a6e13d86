"""A training whose every step is recorded, alone or as one of several processes (which import this module)."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from recbole_kd.distributed.data_parallel import Ranks, several
from recbole_kd.ops.topk import BLOCK_BYTES
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.trainer import KDTrainer
from recbole_kd.training.training_job import TrainingFiles, TrainingJob

Job = tuple[Any, Any, Any]
"""A training: its config, splits and teacher."""


class Recorder(KDTrainer):
    """Keeps each step's loss (this process's part) and the gradients that the optimiser sees."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.losses: list[float] = []
        self.gradients: list[torch.Tensor] = []
        self.sets: list[int] = []
        self.optimizer.register_step_pre_hook(self._record)

    def _record(self, *_: Any) -> None:
        self.gradients.append(
            torch.cat([p.grad.flatten().clone() for p in self.model.parameters() if p.grad is not None])
        )

    def _losses(self, interaction: Any) -> Any:
        base, kd = super()._losses(interaction)
        self.losses.append(float(base.detach() + kd.detach()))
        assert self.distiller is not None
        self.sets.append(
            sum(
                int((ids * torch.arange(1, ids.numel() + 1).view_as(ids)).sum())
                for ids in self.distiller.item_sets.values()
            )
        )
        return base, kd


def record(
    config: Any,
    splits: Any,
    teacher: Any,
    folder: Path,
    ranks: Ranks | None,
    evaluate: bool = True,
    block_bytes: int | None = None,
) -> dict[str, Any]:
    """Train, and what was seen: summed losses, gradients, a checksum of the item sets, shown means, test metrics.

    Args:
        block_bytes: of what is ranked and drawn at a time, where it is not the usual.
    """
    with patch("recbole_kd.ops.topk.BLOCK_BYTES", block_bytes or BLOCK_BYTES):
        return _record(config, splits, teacher, folder, ranks, evaluate)


def _record(
    config: Any, splits: Any, teacher: Any, folder: Path, ranks: Ranks | None, evaluate: bool
) -> dict[str, Any]:
    model, loaders = TrainingJob(config, splits, TrainingFiles.in_folder(folder, folder)).model_and_loaders()
    distiller = build_distiller(config, model, teacher, loaders.train)
    trainer = Recorder(
        config, model, distiller, checkpoint=folder / "best.pth", scalars=folder / "scalars", ranks=ranks
    )
    trainer.fit(loaders.train, loaders.valid, saved=True, show_progress=False)
    metrics = trainer.evaluate(loaders.test, load_best_model=True, show_progress=False) if evaluate else {}
    losses = trainer.losses if ranks is None else ranks.sum(trainer.losses)
    seen = {"gradients": trainer.gradients, "sets": trainer.sets, "means": trainer.epoch_means}
    return {"losses": losses, "test": dict(metrics or {}), **seen}


def follow(jobs: Sequence[Job], block_bytes: int | None, ranks: Ranks, own: Path) -> None:
    """Follow in one training after the other; the item sets' checksums are left where the environment says."""
    found = recorded(jobs, own, ranks, block_bytes)
    expected = os.environ.get("DDP_TEST_SETS")
    if expected:
        Path(expected).write_text(json.dumps([each["sets"] for each in found]))


def fail(how: str, ranks: Ranks, own: Path) -> None:
    """A follower that ends as it is told to, while the leader waits for it."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("the disk is full")


def recorded(
    jobs: Sequence[Job], folder: Path, ranks: Ranks | None, block_bytes: int | None = None
) -> list[dict[str, Any]]:
    """Train one after the other, each in a folder of its own, and what was seen of each."""
    places = [folder / str(number) for number in range(len(jobs))]
    for place in places:
        place.mkdir(parents=True)
    return [record(*job, place, ranks, block_bytes=block_bytes) for job, place in zip(jobs, places, strict=True)]


def both(jobs: Sequence[Job], folder: Path, n: int = 2, block_bytes: int | None = None) -> list[dict[str, Any]]:
    """The same trainings by n processes."""
    with several(n, torch.device("cpu"), partial(follow, jobs, block_bytes)) as ranks:
        return recorded(jobs, folder, ranks, block_bytes)


class Unreadable:
    """Can be pickled, and not be read again."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("no such thing here")


def busy(place: str, ranks: Ranks, own: Path) -> None:
    """A follower that is not waiting for the others."""
    Path(place).write_text(str(os.getpid()))
    time.sleep(600)


def lead(place: str) -> None:
    """Lead a follower that is busy, forever."""
    with several(2, torch.device("cpu"), partial(busy, place)):
        time.sleep(600)
