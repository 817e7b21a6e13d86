"""Turns what RecBole raises while it reads the data of a distillation into one sentence.

RecBole's own functions read and split the data of a run themselves, so that no check of ours comes before. Where the
configuration names a method, an error of RecBole's data sets becomes a DataError; a training without ``kd`` keeps
RecBole's own errors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from recbole.data.dataset import Dataset, SequentialDataset

from recbole_kd.data.reading_errors import reading_error
from recbole_kd.errors import DataError, KDError


def install() -> None:
    """Put the sentences into RecBole's data sets; doing so again changes nothing."""
    for kind in (Dataset, SequentialDataset):
        for name in ("__init__", "build"):
            step = vars(kind).get(name)
            if step is not None and not getattr(step, "_of_recbole_kd", False):
                setattr(kind, name, _said(step))


def _said(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step of a data set whose errors are sentences if the configuration names a method."""

    @functools.wraps(step)
    def wrapped(self: Any, *args: Any, **named: Any) -> Any:
        try:
            return step(self, *args, **named)
        except KDError:
            raise
        except (
            Exception
        ) as error:  # whatever RecBole raises, it is about the data or the keys that say how they are read
            config = getattr(self, "config", None)
            if config is None or not config["kd"]:
                raise
            raise _of_histories(self, config) or reading_error(config, error) from error

    wrapped._of_recbole_kd = True  # type: ignore[attr-defined]
    return wrapped


def _of_histories(dataset: Any, config: Any) -> DataError | None:
    """Return the error of a sequential data set without the column of its histories.

    Returns:
        None if the column is there.
    """
    columns = getattr(dataset, "inter_feat", None)
    if not isinstance(dataset, SequentialDataset) or columns is None:
        return None
    model, name, time = config["model"], config["dataset"], config["TIME_FIELD"]
    if config["benchmark_filename"] is not None:
        listed = f"{config['ITEM_ID_FIELD']}{config['LIST_SUFFIX']}"
        return None if listed in columns else DataError(
            f"{model} reads the histories in the files of benchmark_filename={config['benchmark_filename']}, and those "
            f"of {name} have no column {listed}: add it ({listed}:token_seq) and name it in load_col, or leave "
            f"benchmark_filename out"
        )  # fmt: skip
    return None if time in columns else DataError(
        f"{model} orders the histories by time in RecBole's own functions, and {name} is read without its column "
        f"{time}: add it to load_col, name it with TIME_FIELD, or train with run_recbole_kd, which takes the order of "
        "the file"
    )  # fmt: skip
