"""Loaders of the paper's evaluation protocol."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from torch import Tensor

from recbole_kd.errors import ConfigError
from recbole_kd.ops.ragged import Ragged

FULL_ONLY = (
    "eval_protocol=paper ranks the whole catalogue for each user: set eval_args.mode=full, or eval_protocol=recbole"
)


def follow_paper_protocol(loader: Any, train_items: Ragged) -> None:
    """Make a validation or test loader exclude only training items from the ranking.

    This is ``eval_protocol: paper``. RecBole's test ranking also excludes the validation items. The mean over all
    users, those without a test item included, is taken by :class:`recbole_kd.evaluation.full_ranking.FullRanking`; it
    recognises a loader by the attribute ``all_users`` that is set here.

    RecBole excludes nothing for a sequential model. Here the training items of a row's user are excluded, whatever the
    row's history holds.

    Raises:
        ConfigError: the loader does not rank all items for each user.
    """
    if not isinstance(loader, FullSortEvalDataLoader):
        raise ConfigError(FULL_ONLY)
    loader.all_users = loader._dataset.user_num - 1
    if loader.is_sequential:
        loader.row_history = train_items.of_rows(loader._dataset.rows.users)
        loader.collate_fn = partial(_with_history, loader)
        return
    starts, items = train_items.starts.tolist(), train_items.items
    for user in loader.uid_list.tolist():
        loader.uid2history_item[user] = items[starts[user] : starts[user + 1]]
    loader.__dict__.pop("_kd_lists", None)


def _with_history(loader: Any, index: Any) -> tuple[Any, tuple[Tensor, Tensor], Tensor, Tensor]:
    """Return a batch of a sequential loader with its excluded items, for RecBole's evaluation."""
    rows, _, positive_rows, positives = type(loader).collate_fn(loader, index)
    return rows, loader.row_history.pairs(torch.as_tensor(np.array(index))), positive_rows, positives
