"""A RecBole data set in the exact order of the file's times; ties keep the file's order."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_kd.data.time_order import RAW_ROW, RAW_TIME, is_split_by_time, time_order


class OrderChange(NamedTuple):
    """Numbers of users whom RecBole's float32 order would change.

    Attributes:
        split: users with other held-out interactions. order: users with another order of interactions.
    """

    split: int
    order: int


class ExactOrder(Dataset):
    """A data set that sorts, splits and removes duplicates by the file's own times.

    It does so under ``time_order: exact``; under ``time_order: recbole`` it follows RecBole.

    Attributes:
        order_change: set after the build if times decided the split under ``exact``; else None.
    """

    order_change: OrderChange | None = None
    has_times: bool
    _float32_times: Tensor | None = None
    _follows_recbole = False

    @property
    def is_exact(self) -> bool:
        """Whether the file's own times decide the order."""
        return not self._follows_recbole and time_order(self.config) == "exact"

    def sort(self, by: Any, ascending: Any = True) -> None:
        """Sort the interactions; RecBole's sort is stable."""
        exact = self.is_exact and by == self.time_field and RAW_TIME in self.inter_feat
        super().sort(RAW_TIME if exact else by, ascending)

    def _remove_duplication(self) -> None:
        keep = self.config["rm_dup_inter"]
        if keep is None or not self.is_exact or RAW_TIME not in self.inter_feat:
            super()._remove_duplication()
            return
        self.inter_feat.sort_values(RAW_TIME, kind="stable", inplace=True)
        self.inter_feat.drop_duplicates([self.uid_field, self.iid_field], keep=keep, inplace=True)

    def _change_feat_format(self) -> None:
        super()._change_feat_format()
        if self.is_exact and self.time_field in self.inter_feat:
            self._float32_times = self.inter_feat[self.time_field].clone()

    def time_based_split(self, ratios: list[float], group_by: str) -> list[Any]:
        """Return RecBole's TS split, with a boundary and comparisons by exact times.

        The boundary is the first of two neighbouring times in sorted order; interactions up to it are before the
        boundary.
        """
        if not self.is_exact:
            parts: list[Any] = super().time_based_split(ratios, group_by)
            return parts
        times, users = (np.asarray(self.inter_feat[field]) for field in (RAW_TIME, group_by))
        train, _, test = (ratio / sum(ratios) for ratio in ratios)
        boundary = np.sort(times)[
            int((len(times) - 1) * (1 - test) + 1e-9)
        ]  # 1e-9: the product may be just below an integer
        order = np.lexsort((times, users))
        late = times[order] > boundary
        early = order[~late]
        counts = np.bincount(users[early], minlength=self.num(group_by))
        rank = np.arange(len(early)) - (np.cumsum(counts) - counts)[users[early]]
        n_train = (counts * (train / (1 - test) if test < 1 else 0)).astype(np.int64)[users[early]]
        self._drop_unused_col()
        rows = (early[rank < n_train], early[rank >= n_train], order[late])
        return [self.copy(self.inter_feat[index]) for index in rows]

    def build(self) -> list[Any]:
        """Return the three parts; each knows how RecBole's order would change them."""
        parts: list[Any] = super().build()
        if self.is_exact and is_split_by_time(self.config) and self.has_times:
            change = self._change_by_recbole(parts)
            for dataset in (self, *parts):
                dataset.order_change = change
        for dataset in (self, *parts):
            dataset._float32_times = None
        return parts

    def _change_by_recbole(self, parts: list[Any]) -> OrderChange:
        """Split the rows once more in RecBole's order and compare."""
        columns = [self.inter_feat[field] for field in (self.uid_field, RAW_TIME, RAW_ROW)]
        users, times, rows = (np.asarray(column) for column in columns)
        in_file = np.argsort(rows)
        users, times, rows = users[in_file], times[in_file], rows[in_file]
        float32 = np.asarray(self._float32_times)
        moved = np.lexsort((times, users)) != np.lexsort((float32, users))
        n_order = len(np.unique(np.sort(users)[moved]))
        group_by = self.config["eval_args"]["group_by"]
        by_user = "TS" not in self.config["eval_args"]["split"] and group_by is not None and group_by.lower() != "none"
        if not n_order and by_user:
            return OrderChange(0, 0)
        twin = copy.copy(self)
        twin._follows_recbole = True
        twin.inter_feat = Interaction(
            {
                self.uid_field: torch.from_numpy(users),
                self.time_field: torch.from_numpy(float32),
                RAW_ROW: torch.from_numpy(rows),
            }
        )
        twin._change_feat_format = twin._drop_unused_col = lambda: None  # type: ignore[method-assign]
        theirs = Dataset.build(twin)
        differs = _phases(parts, len(rows)) != _phases(theirs, len(rows))
        return OrderChange(len(np.unique(users[differs])), n_order)


def _phases(parts: list[Any], n_rows: int) -> np.ndarray:
    """Return the index of the part of each row of the file, int8 ``[n_rows]``; -1 for none."""
    phases = np.full(n_rows, -1, dtype=np.int8)
    for number, part in enumerate(parts):
        phases[np.asarray(part.inter_feat[RAW_ROW])] = number
    return phases
