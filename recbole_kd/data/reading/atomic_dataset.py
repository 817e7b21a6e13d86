"""A RecBole data set that reads its atomic files with our reader."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.data.dataset import Dataset
from recbole.utils import FeatureSource, FeatureType

from recbole_kd.data.atomic_file_checks import columns_of
from recbole_kd.data.reading.atomic_table import (
    Layout,
    check_ids,
    exact_times,
    missing_numbers,
    read_columns,
    split_sequences,
)
from recbole_kd.data.time_order import LARGEST_EXACT, RAW_TIME
from recbole_kd.errors import DataError

_SEQUENCES = (FeatureType.TOKEN_SEQ, FeatureType.FLOAT_SEQ)
_NUMBERS = (FeatureType.FLOAT,)


class AtomicFiles(Dataset):
    """A data set with ids, times and row widths exactly as in the files.

    The times are also in the column RAW_TIME.
    """

    def _load_feat(self, filepath: str, source: Any) -> pd.DataFrame | None:
        """Read the columns of a file that ``load_col`` selects, in RecBole's form.

        Raises:
            DataError: a row is malformed, or an id or a time is missing; the message names file and line.
        """
        path, separator = Path(filepath), self.config["field_separator"]
        header = columns_of(path, self.config)
        load, unload = self._get_load_and_unload_col(source)
        if load == set():
            return None
        kinds = {
            name: kind for name, kind in header.items() if (load is None or name in load) and name not in (unload or ())
        }
        if not kinds:
            getLogger().warning(f"load_col and unload_col leave no column of {path}")
            return None
        self._declare(kinds, source)
        texts = [name for name, kind in kinds.items() if kind not in _NUMBERS]
        numbers = [name for name in kinds if name not in texts]
        frame, lines = read_columns(path, Layout(tuple(header), separator, self.config["encoding"]), texts, numbers)
        check_ids(frame, self._ids_of(source, kinds), lines)
        is_timed = source == FeatureSource.INTERACTION and self.time_field in numbers
        if is_timed:
            times = exact_times(frame[self.time_field], self.time_field, lines)
        for name, count in missing_numbers(frame, numbers).items():
            getLogger().warning(f"{count:,} rows of {path} have no {name}: RecBole fills in the mean of the others")
        frame = frame[list(kinds)].astype(dict.fromkeys(numbers, np.float64))
        for name in texts:
            if kinds[name] in _SEQUENCES:
                is_float = kinds[name] == FeatureType.FLOAT_SEQ
                frame[name] = self._cut(
                    split_sequences(frame[name], self.config["seq_separator"], is_float, name, lines), name
                )
            else:  # RecBole maps a missing token to the padding
                frame[name] = frame[name].where(frame[name] != "", np.nan)
        if is_timed:
            frame[RAW_TIME] = times
            self.set_field_property(RAW_TIME, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
        return frame

    def _ids_of(self, source: Any, kinds: dict[str, Any]) -> list[str]:
        ids = {FeatureSource.INTERACTION: (self.uid_field, self.iid_field), FeatureSource.USER: (self.uid_field,)}
        ids[FeatureSource.ITEM] = (self.iid_field,)
        return [name for name in ids.get(source, ()) if name in kinds]

    def _declare(self, kinds: dict[str, Any], source: Any) -> None:
        """Tell RecBole the type and source of each column; files of links have neither."""
        for name, kind in kinds.items():
            if source != "link":
                self.field2source[name], self.field2type[name] = source, kind
                if kind not in _SEQUENCES:
                    self.field2seqlen[name] = 1
                if kind in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ):
                    self.field2bucketnum[name] = 2

    def _cut(self, column: list[Any], name: str) -> list[Any]:
        """Return sequences cut to ``seq_len`` values, and tell RecBole the longest."""
        longest = max(map(len, column), default=0)
        limit = (self.config["seq_len"] or {}).get(name, longest)
        self.field2seqlen[name] = min(limit, longest)
        return [sequence[:limit] for sequence in column]

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        super()._load_inter_feat(token, dataset_path)
        times = self.inter_feat.get(RAW_TIME)  # possibly joined from three files
        if times is not None and times.dtype == np.float64 and (times.abs() > LARGEST_EXACT).any():
            raise DataError(
                f"{self.time_field} has fractions in one file of {self.dataset_name} and numbers beyond 2^53 in "
                "another, which no number type holds exactly: write whole numbers in all of them"
            )
