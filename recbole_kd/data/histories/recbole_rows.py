"""Queries from the histories of RecBole's own sequential data sets.

RecBole's ``SequentialDataset`` stores a row as a padded list and its target. Here the same rows are index ranges in
each user's sequence, as in :class:`recbole_kd.data.histories.sequence_dataset.SequenceDataset`, so that all code on
queries works with both. :mod:`recbole_kd.scoring.scorer` defines queries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from recbole.data.dataset import SequentialDataset
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_kd.data.histories.history_rows import QUERY, RowFields, Rows
from recbole_kd.data.histories.sequence_dataset import SequenceDataset
from recbole_kd.data.time_order import RAW_TIME
from recbole_kd.errors import DataError

CHECKED_AT_ONCE = 2**16
"""Number of rows compared with RecBole's at a time."""


@dataclass(frozen=True)
class SequenceQueries:
    """The queries of a sequential student in training.

    Attributes:
        universe: all queries that a stored teacher answers.
        query_ids: int64 ``[n]``, the index in ``universe`` of each training query, the pad first.
        begins: int64 ``[n]``, the first item of each query's history in training. None if it is the universe's.
    """

    universe: Rows
    query_ids: Tensor
    begins: Tensor | None = None

    def training_rows(self) -> Rows:
        """Return the rows of the queries, the pad first."""
        rows = self.universe.take(self.query_ids)
        return rows if self.begins is None else replace(rows, begins=self.begins)


_known: WeakKeyDictionary[Any, SequenceQueries] = WeakKeyDictionary()


def is_recboles(dataset: Any) -> bool:
    """Test whether a data set is sequential and made by RecBole's ``create_dataset``."""
    return isinstance(dataset, SequentialDataset) and not isinstance(dataset, SequenceDataset)


def sequence_queries(data: Any) -> SequenceQueries | None:
    """Return the queries of a sequential student's training data, or None if they are users.

    The training batches of RecBole's data set then have the column ``kd_query``, int64: the id of each row as a query.

    Args:
        data: the training loader, or its data set.

    Raises:
        DataError: RecBole's rows lack the histories.
    """
    dataset = getattr(data, "_dataset", data)
    if isinstance(dataset, SequenceDataset):
        return SequenceQueries(dataset.universe, dataset.query_ids, dataset.begins)
    if not is_recboles(dataset):
        return None
    if dataset not in _known:
        _known[dataset] = _number(dataset, *_rows_of(dataset))
    return _known[dataset]


def query_field(data: Any) -> str:
    """Return the column of a training batch that holds the query id of each row."""
    dataset = getattr(data, "_dataset", data)
    return QUERY if sequence_queries(dataset) is not None else str(dataset.uid_field)


def interactions_of(dataset: Any) -> tuple[Tensor, Tensor]:
    """Return users and items of all interactions behind the rows of a data set, int64 ``[n]``.

    A row of RecBole's sequential data set stands for its target. A user's first item is not a target; it is in the
    user's first history.
    """
    columns = dataset.inter_feat
    named = (columns[field] for field in (dataset.uid_field, dataset.iid_field))
    users, items = (torch.as_tensor(column.to_numpy() if hasattr(column, "to_numpy") else column) for column in named)
    if not is_recboles(dataset) or dataset.item_list_length_field not in columns:
        return users, items
    first = _first_of_user(users) & (columns[dataset.item_list_length_field] == 1)
    return torch.cat([users, users[first]]), torch.cat([items, columns[dataset.item_id_list_field][first][:, 0]])


def _first_of_user(users: Tensor) -> Tensor:
    first = torch.ones(len(users), dtype=torch.bool)
    first[1:] = users[1:] != users[:-1]
    return first


def _rows_of(dataset: Any) -> tuple[Rows, bool]:
    """Return the rows of RecBole's data set in its order, as index ranges in sequences.

    The flag says whether each sequence is the whole sequence of a user.
    """
    config, columns = dataset.config, dataset.inter_feat
    fields = RowFields.of(config)
    if fields.history not in columns or fields.length not in columns:
        raise DataError(
            f"The sequential data set {dataset.dataset_name} has no column {fields.history}: make it with RecBole's "
            "create_dataset from the configuration of the student"
        )
    with_times = bool(getattr(dataset, "has_times", False)) and fields.times in columns
    shared = _in_sequences(columns, fields, with_times)
    if _same_histories(shared, columns, fields):
        return shared, True
    return _row_by_row(columns, fields, with_times), False


def _in_sequences(columns: Any, fields: RowFields, with_times: bool) -> Rows:
    """Return rows that extend the user's row before them by one item each.

    A user's sequence is then the first history followed by all targets.
    """
    users, targets, lengths = (columns[name] for name in (fields.user, fields.item, fields.length))
    first = _first_of_user(users)
    owner = first.cumsum(0) - 1
    heads = torch.where(first, lengths, 0).cumsum(0)  # items in first histories so far
    ends = torch.arange(len(users)) + heads  # index of each target
    starts = (ends - torch.where(first, lengths, 0))[first][owner]
    items = torch.zeros(int(ends[-1]) + 1 if len(ends) else 1, dtype=torch.int64)
    times = torch.zeros(len(items), dtype=columns[RAW_TIME].dtype if with_times else torch.int64)
    filled = [(items, columns[fields.history], targets)]
    if with_times:
        filled.append((times, columns[fields.times], columns[RAW_TIME]))
    for place, histories, own in filled:
        place[ends] = own
        across = torch.arange(histories.shape[1])
        inside = across < lengths[first].unsqueeze(1)
        place[(starts[first].unsqueeze(1) + across)[inside]] = histories[first][inside]
    return Rows(fields, items, times, users, starts, ends, ends.clone(), with_times)


def _same_histories(rows: Rows, columns: Any, fields: RowFields) -> bool:
    """Test whether the rows equal RecBole's, history by history."""
    if not torch.equal(torch.minimum(rows.ends - rows.begins, torch.tensor(fields.max_length)), columns[fields.length]):
        return False
    width = columns[fields.history].shape[1]
    for some in torch.arange(len(rows)).split(CHECKED_AT_ONCE):
        made = rows._histories(some, width)
        if any(not torch.equal(made[name], columns[name][some]) for name in made):
            return False
    return True


def _row_by_row(columns: Any, fields: RowFields, with_times: bool) -> Rows:
    """Return rows of any kind: each has its own history, followed by its target."""
    users, targets, lengths = (columns[name] for name in (fields.user, fields.item, fields.length))
    ends = (lengths + 1).cumsum(0) - 1
    begins = ends - lengths

    def laid_out(histories: Tensor, own: Tensor) -> Tensor:
        flat = torch.zeros(int(ends[-1]) + 1 if len(ends) else 1, dtype=own.dtype)
        across = torch.arange(histories.shape[1])
        inside = across < lengths.unsqueeze(1)
        flat[(begins.unsqueeze(1) + across)[inside]] = histories[inside]
        flat[ends] = own
        return flat

    items = laid_out(columns[fields.history], targets)
    times = laid_out(columns[fields.times], columns[RAW_TIME]) if with_times else torch.zeros_like(items)
    return Rows(fields, items, times, users, begins, ends, ends.clone(), with_times)


def _number(dataset: Any, rows: Rows, in_sequences: bool) -> SequenceQueries:
    """Return the queries of a data set's rows, and add the query column to the data set."""
    n_users, n_rows = int(dataset.user_num), len(rows)
    last = torch.full((n_users,), -1, dtype=torch.int64).scatter_reduce(0, rows.users, torch.arange(n_rows), "amax")
    there = last >= 0
    at = last.clamp(min=0)
    ends = torch.where(there, rows.targets[at] + 1, 0)
    whole = {
        "users": torch.where(there, torch.arange(n_users), 0),
        "begins": torch.where(there, rows.begins[at], 0),
        "ends": ends,
        "targets": (ends - 1).clamp(min=0),
    }
    joined = {name: torch.cat([column, getattr(rows, name)]) for name, column in whole.items()}
    universe = Rows(rows.fields, rows.items, rows.times, **joined, with_times=rows.with_times, n_whole=n_users)
    user_rows = getattr(dataset, "user_rows", None)
    if user_rows is not None:  # HSTU trains on one row a user, so users are the queries
        query_ids = torch.arange(n_users).scatter(0, rows.users[user_rows], n_users + user_rows)
        dataset.inter_feat[QUERY] = rows.users.clone()
    else:
        query_ids = torch.cat([torch.zeros(1, dtype=torch.int64), n_users + torch.arange(n_rows)])
        dataset.inter_feat[QUERY] = torch.arange(1, n_rows + 1)
    dataset.set_field_property(QUERY, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
    return SequenceQueries(universe, query_ids)
