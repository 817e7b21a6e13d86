"""The trackers of a training: TensorBoard, and Weights & Biases if RecBole logs there."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

THREAD_BYTES = 16 << 20
"""Address space for a new thread: its stack (usually 8 MiB) and its first allocations."""


def scalar_writer(folder: Path) -> SummaryWriter:
    """Return a TensorBoard writer of a folder, which has its own thread.

    Raises:
        MemoryError: there is no memory for the thread, and Python would wait for it without end.
    """
    try:
        mmap.mmap(-1, THREAD_BYTES).close()
    except OSError as error:
        raise MemoryError(f"{THREAD_BYTES >> 20} MiB for a thread: {error.strerror}") from error
    return SummaryWriter(str(folder))


def log_distillation_figures(trainer: Any, figures: Mapping[str, float], epoch: int) -> None:
    """Log the figures of an epoch of a distillation as ``KD/NAME``, wherever RecBole's own metrics go.

    That is TensorBoard, and Weights & Biases with ``log_wandb``, over the same ``train_step`` as RecBole's losses.

    Args:
        trainer: a trainer of RecBole.
        figures: losses, diagnostics, ratio of gradient norms, recall of a candidate index.
        epoch: from 0.
    """
    for name, value in figures.items():
        trainer.tensorboard.add_scalar(f"KD/{name}", value, epoch)
    logger = trainer.wandblogger
    if logger.log_wandb:
        logger._wandb.define_metric("KD/*", step_metric="train_step")
        logger.log_metrics({**figures, "train_step": epoch}, head="KD")
