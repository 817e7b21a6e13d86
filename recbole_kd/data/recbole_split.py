"""The split behind the loaders of RecBole's ``data_preparation``, with the order of each user's items, which they do not keep.

A model of another family than the student's (a sequential teacher of a general student, and the other way round) learns
from the same split, and RecBole's data set of the one cannot be made into that of the other. So the data are read again
and split by the same rule, and the outcome is compared with the loaders.
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

from recbole_kd.data.fingerprint import data_fingerprint, describe_mismatch
from recbole_kd.data.histories.history_rows import Rows
from recbole_kd.data.histories.ordered_dataset import HSTUGeneralDataset
from recbole_kd.data.histories.recbole_rows import is_recboles, sequence_queries
from recbole_kd.data.histories.sequence_dataset import sequence_parts
from recbole_kd.data.split_and_loaders import Splits, split_data
from recbole_kd.errors import DataError


class _SplitByRow(HSTUGeneralDataset):
    """The interactions as RecBole's sequential data set divides them: it leaves out rows, and a user has a row less than items."""

    def _split_index_by_leave_one_out(self, grouped_index: Any, leave_one_num: int) -> list[list[int]]:
        parts: list[list[int]] = [[] for _ in range(leave_one_num + 1)]
        for group in map(list, grouped_index):
            if len(group) > 1:  # who has one item has no row
                parts[0].append(group[0])
                for part, found in zip(
                    parts, super()._split_index_by_leave_one_out([group[1:]], leave_one_num), strict=True
                ):
                    part.extend(found)
        return parts


_known: WeakKeyDictionary[Any, Splits] = WeakKeyDictionary()


def split_behind(data: Any) -> Splits:
    """Return the split that a training loader of RecBole's (or its data set) was made from.

    The state of every random generator is left as it was.

    Raises:
        DataError: the loader holds other interactions than the ``eval_args`` of its configuration come to, or other
            histories.
    """
    dataset = getattr(data, "_dataset", data)
    if dataset not in _known:
        with generators_kept():
            splits = split_data(dataset.config, _SplitByRow if is_recboles(dataset) else HSTUGeneralDataset)
        _compare(dataset, splits)
        _known[dataset] = splits
    return _known[dataset]


def ordered_part(data: Any) -> Any:
    """Return the training part, in order, behind a training loader or data set of any kind, ours or RecBole's."""
    dataset = getattr(data, "_dataset", data)
    part = getattr(dataset, "split_part", dataset)
    return part if isinstance(part, HSTUGeneralDataset) else split_behind(dataset).parts[0]


def fingerprint_of(data: Any, *, histories: bool) -> dict[str, Any]:
    """Return the fingerprint of training data; with ``histories`` also that of the order, which RecBole's data sets do not keep."""
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
            f"The training data of {dataset.config['dataset']} are not what eval_args={dataset.config['eval_args']} "
            f"and seed={dataset.config['seed']} make of the files ({difference}): give the loaders of RecBole's "
            "data_preparation, or a teacher of users and items (teacher_path) that was made on the same training data"
        )


def _same_rows(dataset: Any, splits: Splits) -> bool:
    """Whether RecBole's rows are those that a sequential model gets of the split, one by one inside each user.

    RecBole takes the users as they first appear in time, the split by their number; both keep a user's rows in order.
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
    """The rows of histories without the pad, by user; a user's rows stay in their order."""
    histories = torch.arange(rows.n_whole, len(rows))
    return rows.take(histories[rows.users[histories].argsort(stable=True)])


def _seen(rows: Rows, some: Tensor) -> Tensor:
    """The items of some rows' histories, and their targets."""
    row = rows.interaction(some)
    return torch.cat([row[rows.fields.history], row[rows.fields.item].unsqueeze(1)], dim=1)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Within it random numbers may be drawn and seeds set; after it every generator is where it was."""
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
