"""RecBole data sets for HSTU: exact times, and training by user instead of by row.

RecBole finds them by the model's name (``create_dataset`` looks up ``<model>Dataset``).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_kd.data.atomic_file_checks import columns_of
from recbole_kd.data.exact_order import ExactOrder
from recbole_kd.data.reading.atomic_dataset import AtomicFiles
from recbole_kd.data.time_order import RAW_ROW, RAW_TIME, whole_if_possible
from recbole_kd.errors import DataError


class OneRowPerUser:
    """A training part that is iterated by user, over each user's latest row.

    ``inter_feat`` keeps all rows, for masks and samplers.
    """

    inter_feat: Any
    uid_field: str
    user_rows: Tensor | None = None

    def iterate_by_user(self) -> None:
        """Switch length and rows to those of the users; the rows of a user must be in order."""
        users = np.asarray(self.inter_feat[self.uid_field])
        _, from_end = np.unique(users[::-1], return_index=True)
        self.user_rows = torch.from_numpy(len(users) - 1 - from_end)

    def by_row(self) -> Any:
        """Return a copy that is iterated by interaction, as other models train.

        So an HSTU teacher and its student share one split.
        """
        other = copy.copy(self)
        other.user_rows = None
        return other

    def __len__(self) -> int:
        return len(self.inter_feat) if self.user_rows is None else len(self.user_rows)

    def __getitem__(self, index: Any, join: bool = True) -> Any:
        rows = index if self.user_rows is None else self.user_rows[index]
        return super().__getitem__(rows, join)  # type: ignore[misc]


class _RawTimes(Dataset):
    """A data set with the field RAW_TIME and, if ``with_rows``, RAW_ROW in its interactions."""

    with_rows = False

    @property
    def has_times(self) -> bool:
        """Whether the data have a numerical time column."""
        return bool(self._has_times)

    def _normalize(self) -> None:
        self._keep_raw_times()
        super()._normalize()

    def _keep_raw_times(self) -> None:
        frame = self.inter_feat
        rows = np.arange(len(frame), dtype=np.int64)
        self._has_times = self.time_field in frame and self.field2type[self.time_field] == FeatureType.FLOAT
        if RAW_TIME not in frame:  # our own reader adds it
            frame[RAW_TIME] = (
                whole_if_possible(frame[self.time_field].to_numpy(np.float64)) if self._has_times else rows
            )
        added = [RAW_TIME]
        if self.with_rows:
            frame[RAW_ROW] = rows
            added.append(RAW_ROW)
        for field in added:  # only token fields become int64 in RecBole
            self.set_field_property(field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)

    def _dataframe_to_interaction(self, data: Any) -> Interaction:
        """Convert a data frame as RecBole does; RAW_TIME keeps its type."""
        if RAW_TIME not in data:
            return super()._dataframe_to_interaction(data)
        converted = super()._dataframe_to_interaction(data.drop(columns=RAW_TIME))
        converted[RAW_TIME] = torch.from_numpy(data[RAW_TIME].to_numpy(copy=True))
        return converted

    def _take_the_order_for_time(self) -> None:
        """Use the row as the time if there is no time column.

        Raises:
            DataError: the file has the time column, but ``load_col`` leaves it out.
        """
        if self.time_field is not None and self.time_field not in self.inter_feat:
            self._refuse_unread_time()
            self.inter_feat[self.time_field] = self.inter_feat[RAW_TIME].astype(np.float64)
            self.set_field_property(self.time_field, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)

    def _refuse_unread_time(self) -> None:
        file = Path(self.dataset_path) / f"{self.dataset_name}.inter"
        if file.is_file() and self.time_field in columns_of(file, self.config):
            raise DataError(
                f"The order of a user's items is that of {self.time_field}, which {file} has and "
                f"load_col={self.config['load_col']} leaves out: add it, as in --load_col='{{inter: [{self.uid_field}, "
                f"{self.iid_field}, {self.time_field}]}}', or for the order of the file set TIME_FIELD to a name that "
                "is not a column"
            )


class HSTUDataset(OneRowPerUser, _RawTimes, SequentialDataset):
    """RecBole's sequential data set, trained on the longest prefix of each user.

    The model learns from all positions of the prefix in one pass. Validation and test rows are RecBole's. Data
    without a time column use the file's order.
    """

    def _keep_raw_times(self) -> None:
        super()._keep_raw_times()
        self._take_the_order_for_time()

    def build(self) -> list[Any]:
        parts: list[Any] = super().build()
        if self.benchmark_filename_list is None:  # the rows of prepared files are used unchanged
            parts[0].iterate_by_user()
        return parts


class HSTUGeneralDataset(OneRowPerUser, ExactOrder, _RawTimes, AtomicFiles):
    """RecBole's general data set that keeps the order within a user through any split.

    The training part is iterated by user. Every run splits this data set, whatever its models: the data of a general
    or a sequential model are made from its parts. A Config of RecBole's own, without the key ``time_order``, has
    RecBole's order.
    """

    with_rows = True

    def _keep_raw_times(self) -> None:
        super()._keep_raw_times()
        arguments = self.config["eval_args"]
        if "LS" in (arguments["split"] or {}) and arguments["order"] != "RO":  # a random order asks no times
            self._take_the_order_for_time()

    def plain(self) -> Any:
        """Return a copy that is RecBole's own data set again.

        It is iterated by interaction and lacks the columns that keep the order.
        """
        other = self.by_row()
        columns = self.inter_feat.interaction
        other.inter_feat = Interaction({name: columns[name] for name in columns if name not in (RAW_TIME, RAW_ROW)})
        other.split_part = self
        return other

    def build(self) -> list[Any]:
        parts: list[Any] = super().build()
        parts[0].iterate_by_user()
        return parts
