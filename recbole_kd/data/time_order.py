"""Which of two orders in time a run follows, and the columns that keep times and rows as they stand in the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_kd.errors import ConfigError

RAW_TIME = "raw_time"
"""int64 or float64 field: the time column as the file has it, which RecBole rounds to float32; without such a column the row."""
RAW_ROW = "raw_row"
"""int64 field: the interaction's place in the file after filtering."""

TIME_ORDERS = ("exact", "recbole")
"""Values of the key ``time_order``: the file's own times, or RecBole's float32 values of them."""
LARGEST_EXACT = 2**53
"""Float64 holds every whole number up to this one."""


def time_order(config: Any) -> str:
    """Return the order of a Config; one that RecBole made without our property files has RecBole's.

    Raises:
        ConfigError: an unknown value.
    """
    order = config["time_order"] or "recbole"
    if order not in TIME_ORDERS:
        raise ConfigError(f"Invalid --time_order={order}: expected exact or recbole. Try --time_order=exact.")
    return str(order)


def is_split_by_time(config: Any) -> bool:
    """Return whether times decide the split of a Config; prepared files and a random order do not ask them."""
    arguments = config["eval_args"]
    return config["benchmark_filename"] is None and (arguments["order"] == "TO" or "TS" in (arguments["split"] or {}))


def whole_if_possible(times: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Return times ``[n]`` as int64 if all of them are whole numbers that float64 holds exactly, else as they are."""
    whole = np.isfinite(times).all() and (np.abs(times) <= LARGEST_EXACT).all() and (times == np.rint(times)).all()
    return times.astype(np.int64) if whole else times
