"""The split behind RecBole's loaders, with the order of items that they do not keep.

A model of another family than the student's (a sequential teacher of a general student, and the other way round) learns
from the same split, but RecBole's data set for one cannot be turned into that for the other. So the data are read again
and split by the same rule, and the result is compared with the loaders.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import get_model
from torch import Tensor

from recbole_kd.data.fingerprint import data_fingerprint
from recbole_kd.data.fingerprint_comparison import describe_mismatch
from recbole_kd.data.histories.history_rows import Rows
from recbole_kd.data.histories.ordered_dataset import HSTUGeneralDataset
from recbole_kd.data.histories.recbole_rows import is_recboles, sequence_queries
from recbole_kd.data.histories.sequence_dataset import sequence_parts
from recbole_kd.data.split_and_loaders import Splits, split_data
from recbole_kd.errors import DataError


class _SplitByRow(HSTUGeneralDataset):
    """The interactions as RecBole's sequential data set splits them.

    It drops rows: a user has one row fewer than items.
    """

    def _split_index_by_leave_one_out(self, grouped_index: Any, leave_one_num: int) -> list[list[int]]:
        parts: list[list[int]] = [[] for _ in range(leave_one_num + 1)]
        for group in map(list, grouped_index):
            if len(group) > 1:  # a user with one item has no row
                parts[0].append(group[0])
                for part, found in zip(
                    parts, super()._split_index_by_leave_one_out([group[1:]], leave_one_num), strict=True
                ):
                    part.extend(found)
        return parts


_known: WeakKeyDictionary[Any, Splits] = WeakKeyDictionary()


def split_behind(data: Any) -> Splits:
    """Return the split that a training loader of RecBole's (or its data set) was made from.

    The state of every random generator is restored.

    Raises:
        DataError: the interactions or histories of the loader do not match the ``eval_args`` of its configuration.
    """
    dataset = getattr(data, "_dataset", data)
    if dataset not in _known:
        with generators_kept():
            splits = split_data(dataset.config, _SplitByRow if is_recboles(dataset) else HSTUGeneralDataset)
        _compare(dataset, splits)
        _known[dataset] = splits
    return _known[dataset]


def ordered_part(data: Any) -> Any:
    """Return the training part, in order, behind a training loader or data set of any kind."""
    dataset = getattr(data, "_dataset", data)
    part = getattr(dataset, "split_part", dataset)
    return part if isinstance(part, HSTUGeneralDataset) else split_behind(dataset).parts[0]


def fingerprint_of(data: Any, *, histories: bool) -> dict[str, Any]:
    """Return the fingerprint of training data.

    Args:
        histories: add the fingerprint of the order, which RecBole's data sets do not keep.
    """
    here = data_fingerprint(train=data)
    if histories and "histories" not in here:
        here["histories"] = split_behind(data).fingerprint.get("histories")
    return here


def _compare(dataset: Any, splits: Splits) -> None:
    here = data_fingerprint(train=dataset)
    difference = describe_mismatch(splits.fingerprint, here)
    if difference is None and is_recboles(dataset) and not _same_rows(dataset, splits):
        difference = "its histories are in another order than those of the loader"
    if difference:
        raise DataError(
            f"The training data of {dataset.config['dataset']} do not match eval_args={dataset.config['eval_args']} "
            f"and seed={dataset.config['seed']} on its files ({difference}): pass the loaders of RecBole's "
            "data_preparation, or a teacher of users and items (teacher_path) that was trained on the same data"
        )


def _same_rows(dataset: Any, splits: Splits) -> bool:
    """Test whether RecBole's rows equal those of a sequential model on the split.

    Rows are compared one by one within each user. RecBole orders users by their first time, the split by id; both
    keep the order of a user's rows.
    """
    found = sequence_queries(dataset)
    if found is None or not issubclass(get_model(dataset.config["model"]), SequentialRecommender):
        return False
    made = sequence_parts(dataset.config, splits.parts)[0].universe
    theirs, ours = (_by_user(rows) for rows in (found.universe, made))
    if not torch.equal(theirs.users, ours.users):
        return False
    blocks = torch.arange(len(ours)).split(2**16)
    return all(torch.equal(_seen(theirs, some), _seen(ours, some)) for some in blocks)


def _by_user(rows: Rows) -> Rows:
    """Return the rows of histories without the pad, sorted by user; ties keep their order."""
    histories = torch.arange(rows.n_whole, len(rows))
    return rows.take(histories[rows.users[histories].argsort(stable=True)])


def _seen(rows: Rows, some: Tensor) -> Tensor:
    """Return the items of the given rows' histories, and their targets."""
    row = rows.interaction(some)
    return torch.cat([row[rows.fields.history], row[rows.fields.item].unsqueeze(1)], dim=1)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the state of every random generator on exit."""
    cudnn: Any = torch.backends.cudnn
    before = random.getstate(), np.random.get_state(), torch.get_rng_state(), (cudnn.benchmark, cudnn.deterministic)
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        cudnn.benchmark, cudnn.deterministic = before[3]
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
