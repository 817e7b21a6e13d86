"""The two orders in time, and columns with the times and rows of the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_kd.errors import ConfigError

RAW_TIME = "raw_time"
"""int64 or float64 field: the file's time column, which RecBole rounds to float32; the row if there are no times."""
RAW_ROW = "raw_row"
"""int64 field: the row number of the interaction in the file after filtering."""

TIME_ORDERS = ("exact", "recbole")
"""Values of the key ``time_order``: the file's own times, or their float32 values as in RecBole."""
LARGEST_EXACT = 2**53
"""Float64 holds every integer up to this one."""


def time_order(config: Any) -> str:
    """Return the time order of a Config: ``recbole`` if the key is not set.

    The key is not set if RecBole made the Config without our property files.

    Raises:
        ConfigError: an unknown value.
    """
    order = config["time_order"] or "recbole"
    if order not in TIME_ORDERS:
        raise ConfigError(f"Invalid --time_order={order}: expected exact or recbole. Try --time_order=exact.")
    return str(order)


def is_split_by_time(config: Any) -> bool:
    """Test whether times decide the split; for prepared files and a random order they do not."""
    arguments = config["eval_args"]
    return config["benchmark_filename"] is None and (arguments["order"] == "TO" or "TS" in (arguments["split"] or {}))


def whole_if_possible(times: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Return times ``[n]`` as int64 if float64 holds all of them as exact integers.

    Otherwise they are returned unchanged.
    """
    whole = np.isfinite(times).all() and (np.abs(times) <= LARGEST_EXACT).all() and (times == np.rint(times)).all()
    return times.astype(np.int64) if whole else times
