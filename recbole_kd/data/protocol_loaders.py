"""RecBole's own evaluation loaders under ``eval_protocol: paper``."""

from __future__ import annotations

from typing import Any

from recbole_kd.data.histories.recbole_rows import is_recboles
from recbole_kd.data.paper_protocol import follow_paper_protocol
from recbole_kd.data.recbole_split import generators_kept, split_behind
from recbole_kd.data.split_and_loaders import make_loaders
from recbole_kd.data.train_items import train_items
from recbole_kd.errors import ConfigError


def as_protocol(eval_data: Any, train_data: Any) -> Any:
    """Return a validation or test loader that follows the paper's protocol, for one of RecBole's ``data_preparation``.

    A general model's loader is made to follow it in place. The rows of a sequential model's test hold the validation
    item in RecBole and do not here: the loader of the same phase is made anew, and kept beside RecBole's.

    Raises:
        ConfigError: the loader ranks no whole catalogue, or is of no phase.
    """
    if hasattr(eval_data, "all_users"):
        return eval_data
    if not is_recboles(eval_data._dataset):
        follow_paper_protocol(eval_data, train_items(train_data))
        return eval_data
    made = vars(eval_data).get("_kd_paper")
    if made is None:
        phase = getattr(eval_data._sampler, "phase", None)
        if phase not in ("valid", "test"):
            raise ConfigError("eval_protocol=paper needs the validation and test loaders of RecBole's data_preparation")
        with generators_kept():
            made = getattr(make_loaders(eval_data.config, split_behind(train_data)), phase)
        vars(eval_data)["_kd_paper"] = made
    return made
