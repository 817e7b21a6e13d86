"""Data of sequential models, made from the one general split of a run.

RecBole's own sequential data set splits prefixes, not interactions: a user with three items has no validation item
there but one here. Users with four or more items have the same rows in both (tested).
:mod:`recbole_kd.data.histories.history_rows` defines the content of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import ContextRecommender, KnowledgeRecommender, SequentialRecommender
from recbole.utils import FeatureSource, FeatureType, get_model
from torch import Tensor

from recbole_kd.config.key_rules import check_by_user
from recbole_kd.config.property_layers import public_name
from recbole_kd.data.context_columns import context_part
from recbole_kd.data.histories.history_rows import QUERY, HistoryRows, RowFields, Rows
from recbole_kd.data.histories.ordered_dataset import HSTUDataset, HSTUGeneralDataset
from recbole_kd.data.histories.user_blocks import UserBlocks
from recbole_kd.data.knowledge_graph import KnowledgePart
from recbole_kd.data.time_order import RAW_TIME
from recbole_kd.errors import ConfigError, DataError


class SequenceDataset(HSTUDataset):
    """One part of a split for a sequential model: a row is a history and its target.

    Attributes:
        rows: rows of this part. split_part: the interactions behind them.
        universe: in a training part, all queries that a stored teacher answers (:mod:`recbole_kd.scoring.scorer`).
        query_ids: in a training part, the index in ``universe`` of each training query, int64; id 0 is the pad.
        begins: in a training part, the first item of each training query's history, int64.
        blocks: the rows that it is iterated by, a block at a time (``train_by_user``). None iterates by row, or for
            HSTU over each user's latest row.
    """

    rows: Rows
    split_part: Any
    universe: Rows
    query_ids: Tensor
    begins: Tensor
    blocks: UserBlocks | None = None
    query_field = QUERY

    @classmethod
    def over(cls, part: Any, config: Any, rows: Rows) -> SequenceDataset:
        """Build the data set of a part and its rows, with RecBole's names for the columns."""
        new = cls.__new__(cls)
        new.__dict__.update(part.__dict__)
        for name in ("field2type", "field2source", "field2seqlen"):
            setattr(new, name, dict(getattr(part, name)))
        new.config, new.rows, new.split_part, new.user_rows = config, rows, part, None
        new.max_item_list_len, new.item_list_length_field = rows.fields.max_length, rows.fields.length
        new.item_id_list_field = rows.fields.history
        for field in (rows.fields.history, rows.fields.times):
            new.set_field_property(field, FeatureType.TOKEN_SEQ, FeatureSource.INTERACTION, rows.fields.max_length)
        new.set_field_property(rows.fields.length, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
        new.inter_feat = HistoryRows(rows)
        return new

    def training_rows(self) -> Rows:
        """Return the rows of the training queries, the pad first."""
        return replace(self.universe.take(self.query_ids), begins=self.begins)

    def iterate_by_block(self) -> None:
        """Switch length and rows to those of blocks of one user's rows."""
        self.blocks = UserBlocks.of(self.rows)
        self._columns = self.blocks.columns()

    def __len__(self) -> int:
        return super().__len__() if self.blocks is None else len(self.blocks)

    def __getitem__(self, index: Any, join: bool = True) -> Any:
        if self.blocks is None:
            return super().__getitem__(index, join)
        rows = self._columns[self.blocks.places(torch.as_tensor(index).reshape(-1))]
        return self.join(rows) if join else rows


@dataclass(frozen=True)
class UserSequences:
    """All users' interactions in order, train before valid before test.

    Attributes:
        users, items: int64 ``[N]``, by user. times: int64 or float64 ``[N]``. starts: int64 ``[n_users + 1]``.
        counts: int64 ``[3, n_users]``, by phase.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Any]) -> UserSequences:
        n_users = parts[0].user_num
        uid, iid = parts[0].uid_field, parts[0].iid_field
        columns = [
            np.concatenate([np.asarray(part.inter_feat[field]) for part in parts]) for field in (uid, iid, RAW_TIME)
        ]
        users, items, times = columns
        phases = np.repeat(np.arange(len(parts)), [len(part.inter_feat[uid]) for part in parts])
        by_time = parts[0].is_exact and parts[0].has_times
        # in parts split by time the order holds within each user; prepared files may have any order
        order = np.lexsort((times, phases, users)) if by_time else np.argsort(users, kind="stable")
        counts = np.stack([np.bincount(np.asarray(part.inter_feat[uid]), minlength=n_users) for part in parts])
        starts = np.concatenate([[0], counts.sum(0).cumsum()])
        return cls(users[order], items[order], times[order], starts, counts)


def sequence_parts(config: Any, parts: Sequence[Any]) -> tuple[SequenceDataset, ...]:
    """Return the parts of a leave-one-out split as rows of a sequential model.

    Test histories hold the validation item, as RecBole's do. Under ``eval_protocol: paper`` they hold only training
    items, as in the published code, so that models of histories and models of users know the same items.

    Args:
        config: Config of the model; its ``MAX_ITEM_LIST_LENGTH`` is used.
        parts: (train, valid, test), or the training part alone.

    Raises:
        DataError: a user has more than one validation or test item, or no user has two training items.
        ConfigError: these parts do not come from :func:`recbole_kd.data.split_and_loaders.split_data`, or the split has
            shuffled them.
    """
    if not isinstance(parts[0], HSTUGeneralDataset):
        raise ConfigError(
            f"{config['model']} needs the order of each user's items, which a {type(parts[0]).__name__} does not keep "
            "(fix: make the data with recbole_kd.data.split_and_loaders.split_data and make_loaders)"
        )
    _check_order(config["model"], parts[0])
    sequences = UserSequences.of(parts)
    if (sequences.counts[1:] > 1).any():
        raise DataError(
            f"{config['model']} predicts one item after a history, but this split of {config['dataset']} leaves "
            "some users more: set eval_args.split={LS: valid_and_test}, which --setting=sequential does by itself"
        )
    make = _RowMaker(config, parts[0], sequences)
    train = SequenceDataset.over(parts[0], config, make.prefixes())
    if len(train.rows) == 0:
        raise DataError(
            f"No user of {config['dataset']} has two training items, so there is no history to learn from: loosen the "
            "filters"
        )
    train.universe = make.universe(train.rows)
    if getattr(get_model(config["model"]), "trains_by_user", False):
        train.iterate_by_user()
    elif config["train_by_user"]:
        train.iterate_by_block()
    _number_queries(train)
    paper = config["eval_protocol"] == "paper"
    later = [
        SequenceDataset.over(part, config, make.held_out(n, 1 if paper else n)) for n, part in enumerate(parts) if n
    ]
    return (train, *later)


class _RowMaker:
    """Builder of one model's rows over the sequences of a split."""

    def __init__(self, config: Any, part: Any, sequences: UserSequences) -> None:
        self.fields, self.with_times, self.sequences = RowFields.of(config), bool(part.has_times), sequences

    def _rows(self, users: np.ndarray, ends: np.ndarray, targets: np.ndarray) -> Rows:
        items, times = torch.from_numpy(self.sequences.items.astype(np.int64)), torch.from_numpy(self.sequences.times)
        columns = {"users": users, "begins": self.sequences.starts[users], "ends": ends, "targets": targets}
        places = {name: torch.from_numpy(column.astype(np.int64)) for name, column in columns.items()}
        return Rows(self.fields, items, times, with_times=self.with_times, n_whole=0, **places)

    def prefixes(self) -> Rows:
        """Return rows with every training item but a user's first as target, after all before it."""
        place = np.arange(len(self.sequences.users))
        rank = place - self.sequences.starts[self.sequences.users]
        at = place[(rank > 0) & (rank < self.sequences.counts[0][self.sequences.users])]
        return self._rows(self.sequences.users[at], at, at)

    def held_out(self, phase: int, n_known: int) -> Rows:
        """Return rows with the item of a phase as target, after the first ``n_known`` phases."""
        users = np.flatnonzero(self.sequences.counts[phase])
        ends, targets = (
            self.sequences.starts[users] + self.sequences.counts[:n].sum(0)[users] for n in (n_known, phase)
        )
        return self._rows(users, ends, targets)

    def universe(self, prefixes: Rows) -> Rows:
        """Return each user's whole training history, at its last item's time, then the prefixes."""
        starts, lengths = self.sequences.starts[:-1], self.sequences.counts[0]
        ends = np.where(lengths > 0, starts + lengths, 0)
        whole = self._rows(np.where(lengths > 0, np.arange(len(lengths)), 0), ends, np.maximum(ends - 1, 0))
        columns = ("users", "begins", "ends", "targets")
        joined = {name: torch.cat([getattr(whole, name), getattr(prefixes, name)]) for name in columns}
        return Rows(whole.fields, whole.items, whole.times, **joined, with_times=self.with_times, n_whole=len(lengths))


def _number_queries(train: SequenceDataset) -> None:
    """Give each training row its id as a query.

    The id is the user if the part is iterated over one row of each user, otherwise the number of the row, from 1.
    """
    n_users, users = train.user_num, train.rows.users
    if train.user_rows is not None:
        train.query_ids = torch.arange(n_users).scatter(0, users[train.user_rows], n_users + train.user_rows)
        train.inter_feat[QUERY] = users
    else:
        train.query_ids = torch.cat([torch.zeros(1, dtype=torch.int64), n_users + torch.arange(len(users))])
        train.inter_feat[QUERY] = torch.arange(1, len(users) + 1)
    train.begins = train.universe.begins[train.query_ids]
    if train.blocks is not None:
        train.begins[1:] = train.blocks.rows.begins
    train.set_field_property(QUERY, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)


def stage_parts(config: Any, parts: Sequence[Any]) -> tuple[Any, ...]:
    """Return the parts of a run's split as a model of its family reads them.

    Raises:
        ConfigError: ``train_by_user`` is asked of a model that cannot, or the split does not serve a sequential model.
    """
    check_by_user(public_name(config["model"]), config["train_by_user"])
    kind = get_model(config["model"])
    if issubclass(kind, SequentialRecommender):
        return sequence_parts(config, parts)
    whole = parts[0]
    if not isinstance(whole, HSTUGeneralDataset):
        return tuple(parts)
    if issubclass(kind, KnowledgeRecommender):
        return (KnowledgePart.over(whole.plain(), config), *parts[1:])
    if issubclass(kind, ContextRecommender):
        return (context_part(whole.plain(), config), *parts[1:])
    return (whole if getattr(kind, "trains_by_user", False) else whole.plain(), *parts[1:])


def _check_order(model: str, part: Any) -> None:
    if part.benchmark_filename_list is None and part.config["eval_args"]["order"] == "RO":
        raise ConfigError(
            f"eval_args.order=RO is not possible with {model}, which learns from the order of a user's items, because "
            "it shuffles them before the split: set eval_args.order=TO"
        )


def reads_histories(model: str) -> bool:
    """Test whether a model of this name learns from the order of a user's interactions."""
    kind = get_model(model)
    return issubclass(kind, SequentialRecommender) or getattr(kind, "trains_by_user", False)


def universe_of(train: Any) -> Rows | None:
    """Return the queries that a trained model answers, or None if they are users.

    :mod:`recbole_kd.scoring.scorer` defines queries.

    Args:
        train: the training part, or its loader, that the model was trained on.
    """
    rows: Rows | None = getattr(getattr(train, "_dataset", train), "universe", None)
    return rows
