"""The state of a training's parts: weights, optimiser, distiller, random generators, snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from recbole_kd.distiller.base import Distiller
from recbole_kd.training.random_state import random_state, restore_random_state
from recbole_kd.training.trajectory import Trajectory


@dataclass(frozen=True)
class TrainingParts:
    """The parts of a training that its next epoch depends on, next to the trainer's own counters.

    Attributes:
        model: the student.
        optimizer: over model and distiller.
        distiller: None without a teacher. Its item sets are not part of the state.
        generator: the one that shuffles the training rows.
        trajectory: the snapshots of the training, if it keeps any.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    distiller: Distiller | None
    generator: torch.Generator
    trajectory: Trajectory | None

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values, see :meth:`load_state`."""
        distiller = self.distiller
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "distiller": None if distiller is None else distiller.state_dict(),
            "sampling": None if distiller is None else distiller.sampling_state(),
            **random_state(),
            "loader_rng": self.generator.get_state(),
            "trajectory": None if self.trajectory is None else self.trajectory.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load a state of :meth:`state`; the random generators come last.

        Raises:
            TrainingError: a snapshot is missing or damaged.
        """
        if self.trajectory is not None:
            self.trajectory.load_state(state["trajectory"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.distiller is not None:
            self.distiller.load_state_dict(state["distiller"])
            self.distiller.restore_sampling(
                {k: v.cpu() if torch.is_tensor(v) else v for k, v in state["sampling"].items()}
            )
        restore_random_state(state)
        self.generator.set_state(state["loader_rng"].cpu())
