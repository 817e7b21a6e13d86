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
    """Return a loader of RecBole's ``data_preparation`` that follows the paper's protocol.

    A general model's loader is changed in place. In RecBole the test histories of a sequential model hold the
    validation item; here they do not. So the loader of the same phase is built anew and stored in RecBole's.

    Args:
        eval_data: a validation or test loader.

    Raises:
        ConfigError: the loader does not rank all items, or is not a validation or test loader.
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
