"""The files that RecBole's trainers open in the working folder whenever one is made."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recbole.trainer import trainer as recbole_trainer

_ONE_AT_A_TIME = threading.RLock()


class NoScalars:
    """A writer of TensorBoard scalars that writes nothing, until a real one takes its place."""

    def add_scalar(self, *_: Any, **__: Any) -> None:
        """Drop a scalar."""

    def add_hparams(self, *_: Any, **__: Any) -> None:
        """Drop hyper-parameters."""

    def close(self) -> None:
        """Close nothing."""


@contextmanager
def without_files() -> Iterator[None]:
    """Let trainers that are made inside the block write nothing: no log_tensorboard/, no folder for checkpoints.

    RecBole makes both in the working folder, which may be read-only although all that a run keeps lies elsewhere. The
    block's trainer needs a writer of its own, and the folder of its checkpoint.
    """
    with _ONE_AT_A_TIME:
        before = recbole_trainer.get_tensorboard, recbole_trainer.ensure_dir
        recbole_trainer.get_tensorboard, recbole_trainer.ensure_dir = (lambda _: NoScalars()), (lambda _: None)
        try:
            yield
        finally:
            recbole_trainer.get_tensorboard, recbole_trainer.ensure_dir = before
