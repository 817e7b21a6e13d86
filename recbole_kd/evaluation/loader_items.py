"""Items that an evaluation loader holds out and leaves out, and means over all users."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_kd.data.histories.history_rows import Rows
from recbole_kd.ops.ragged import Ragged


def rows_of(loader: Any) -> Rows | None:
    """Return the histories that our sequential loaders evaluate, or None for other loaders."""
    rows: Rows | None = getattr(loader._dataset, "rows", None)
    return rows


def items_of_rows(loader: Any, rows: Rows, device: torch.device) -> tuple[Ragged | None, Ragged]:
    """Return the excluded items of each row of a sequential loader, and its target."""
    history: Ragged | None = getattr(loader, "row_history", None)
    targets = Ragged(torch.arange(len(rows) + 1), rows.items[rows.targets])
    return None if history is None else history.to(device), targets.to(device)


def items_of_users(loader: Any, name: str, device: torch.device) -> Ragged:
    """Return a loader's item lists by user, cached on the loader for later epochs.

    Args:
        loader: RecBole's loader of users.
        name: its attribute, ``uid2history_item`` or ``uid2positive_item``.
        device: of the result.
    """
    kept = loader.__dict__.setdefault("_kd_lists", {})
    if name not in kept:
        users = loader.uid_list
        lists = getattr(loader, name)[users.tolist()]
        rows = np.repeat(users.numpy(), [len(items) for items in lists])
        kept[name] = Ragged.from_pairs(rows, torch.cat(list(lists)).numpy(), loader._dataset.user_num).to(device)
    ragged: Ragged = kept[name]
    return ragged


def over_all_users(result: Any, loader: Any) -> Any:
    """Rescale means over the loader's users to means over all users, if it is marked so."""
    everyone = getattr(loader, "all_users", None)
    if everyone is None or result is None:
        return result
    share = (len(loader._dataset) if loader.is_sequential else len(loader.uid_list)) / everyone
    return type(result)((name, value * share) for name, value in result.items())
