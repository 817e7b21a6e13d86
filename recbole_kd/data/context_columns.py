"""Columns of users and items that a context-aware model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_kd.config.model_catalogue import recbole_folder
from recbole_kd.config.parsing import read_config_file
from recbole_kd.errors import ConfigError

SOURCES = ("user", "item")


def side_columns(dataset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``load_col`` with columns of users and items, for a run that does not name any.

    They are RecBole's own choice for ml-100k, otherwise all columns of the files that are there.

    Args:
        dataset: name of the data set.
        settings: all values of a run; its ``load_col`` says what is read of the interactions.
    """
    known = recbole_folder() / "properties" / "quick_start_config" / f"context-aware_{dataset}.yaml"
    if known.is_file():
        columns: Any = read_config_file(known)["load_col"]
        found = {source: columns[source] for source in SOURCES}
    else:
        found = dict.fromkeys(side_files(Path(settings["data_path"]) / dataset, dataset), "*")
    return {**found, **(settings.get("load_col") or {})}


def side_files(folder: str | Path, dataset: str) -> list[str]:
    """Return which of ``user`` and ``item`` have a file in the folder of a data set."""
    return [source for source in SOURCES if (Path(folder) / f"{dataset}.{source}").is_file()]


def context_part(part: Any, config: Any) -> Any:
    """Return a training part with ids and columns of users and items, for a context-aware model.

    Columns of interactions are left out: they are not known of the items that a user has no interaction with, and a
    teacher scores all of them.

    Args:
        part: the training part as RecBole's own data set; it is changed.
        config: RecBole's Config of the model.

    Raises:
        ConfigError: the model would read ids only.
    """
    ids, numbers = (part.uid_field, part.iid_field), config["numerical_features"] or ()
    kept = [field for field in part.field2source if field in ids or _is_read(part, field, numbers)]
    for name in ("field2type", "field2source", "field2seqlen"):
        table = getattr(part, name)
        setattr(part, name, {field: table[field] for field in kept if field in table})
    part.inter_feat = Interaction({field: part.inter_feat[field] for field in ids})
    if len(part.field2source) == len(ids):
        name = config["dataset"]
        if not side_files(config["data_path"], name):
            raise ConfigError(
                f"{config['model']} learns from columns of users and items, and none of {name} is read: there is "
                f"neither {name}.user nor {name}.item, add one, or take a general teacher, such as LightGCN"
            )
        raise ConfigError(
            f"{config['model']} learns from columns of users and items, and none of {name} is read: name columns of "
            f"{name}.user or {name}.item of type token or token_seq in load_col (float ones in numerical_features "
            "too), or take a general teacher, such as LightGCN"
        )
    return part


def _is_read(part: Any, field: str, numbers: Sequence[str]) -> bool:
    """Return whether a column is of users or items, and a number only if it is asked for."""
    is_text = part.field2type[field] in (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)
    return part.field2source[field] in (FeatureSource.USER, FeatureSource.ITEM) and (is_text or field in numbers)


class SideColumns:
    """The columns of users and items that a context-aware model reads beside the ids.

    Args:
        dataset: the model's training part.
        device: of the model.
    """

    def __init__(self, dataset: Any, device: Any) -> None:
        tables = ((dataset.uid_field, dataset.user_feat), (dataset.iid_field, dataset.item_feat))
        self._tables = [(field, table.to(device)) for field, table in tables if table is not None]

    def join(self, rows: Interaction) -> Interaction:
        """Add to rows of ids the columns of their users and items; return them."""
        for field, table in self._tables:
            if field in rows:
                rows.update(table[rows[field]])
        return rows
