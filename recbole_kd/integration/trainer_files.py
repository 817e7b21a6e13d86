"""Files that RecBole's trainers open in the working folder at construction."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recbole.trainer import trainer as recbole_trainer

_ONE_AT_A_TIME = threading.RLock()


class NoScalars:
    """A TensorBoard writer that writes nothing, until a real one replaces it."""

    def add_scalar(self, *_: Any, **__: Any) -> None:
        """Drop a scalar."""

    def add_hparams(self, *_: Any, **__: Any) -> None:
        """Drop hyper-parameters."""

    def close(self) -> None:
        """Close nothing."""


@contextmanager
def without_files() -> Iterator[None]:
    """Stop trainers built in the block from writing log_tensorboard/ and a checkpoint folder.

    RecBole makes both in the working folder, which may be read-only although all output of a run goes elsewhere. A
    trainer built in the block needs its own writer, and the folder of its checkpoint.
    """
    with _ONE_AT_A_TIME:
        before = recbole_trainer.get_tensorboard, recbole_trainer.ensure_dir
        recbole_trainer.get_tensorboard, recbole_trainer.ensure_dir = (lambda _: NoScalars()), (lambda _: None)
        try:
            yield
        finally:
            recbole_trainer.get_tensorboard, recbole_trainer.ensure_dir = before
