"""The paper's evaluation protocol, as far as it is a matter of loaders."""

from __future__ import annotations

from typing import Any

from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_kd.errors import ConfigError
from recbole_kd.ragged import Ragged

FULL_ONLY = "eval_protocol=paper ranks the whole catalogue for each user: set eval_args.mode=full, or eval_protocol=recbole"


def follow_paper_protocol(loader: Any, train_items: Ragged) -> None:
    """Make a validation or test loader follow ``eval_protocol: paper``: only training items are left out of the ranking.

    RecBole leaves out the validation items too when it tests. The mean over all users, those without a test item included, is taken by
    :class:`recbole_kd.evaluation.RankingEvaluation`, which knows a loader by the mark ``all_users`` that is set here.

    Raises:
        ConfigError: the loader does not rank the whole catalogue of each user.
    """
    if not isinstance(loader, FullSortEvalDataLoader) or loader.is_sequential:
        raise ConfigError(FULL_ONLY)
    starts, items = train_items.starts.tolist(), train_items.items
    for user in loader.uid_list.tolist():
        loader.uid2history_item[user] = items[starts[user] : starts[user + 1]]
    loader.__dict__.pop("_kd_lists", None)
    loader.all_users = loader._dataset.user_num - 1
