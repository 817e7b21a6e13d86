"""Digests of side information: other columns, preloaded vectors, and files that keys name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from recbole_kd.data.time_order import RAW_ROW, RAW_TIME
from recbole_kd.storage.digests import digest, file_digest
from recbole_kd.storage.places import user_path


def side_digest(dataset: Any) -> str | None:
    """Return the digest of the columns other than ids and times, and of ``preload_weight``.

    None if the data set loaded none of them (``load_col``).

    Args:
        dataset: RecBole's, built.
    """
    found = [
        part for name, column in _columns(dataset) for part in (name.encode(), np.ascontiguousarray(column).tobytes())
    ]
    return digest(*found) if found else None


def _columns(dataset: Any) -> Iterator[tuple[str, np.ndarray]]:
    read_elsewhere = {dataset.uid_field, dataset.iid_field, dataset.time_field, RAW_TIME, RAW_ROW}
    for table in ("inter_feat", "user_feat", "item_feat"):
        columns = getattr(dataset, table, None)
        names = () if columns is None else columns.columns
        for name in sorted({*names} - read_elsewhere):
            yield f"{table} {name}", np.asarray(columns[name])  # type: ignore[index]
    yield from ((f"preloaded {name}", np.asarray(weight)) for name, weight in sorted(dataset._preloaded_weight.items()))


def named_files(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return key -> digest of the file that it names (NeuMF's ``mf_pretrain_path``, say)."""
    paths = {
        key: user_path(value, key)
        for key, value in settings.items()
        if key.endswith("_path") and isinstance(value, str) and value
    }
    return {key: file_digest(path) for key, path in paths.items() if path.is_file()}
