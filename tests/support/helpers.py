"""A tiny data set, and what a test needs around a model."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole.utils import init_seed

from recbole_kd.config.property_layers import student_layers
from recbole_kd.data.histories.sequence_dataset import SequenceDataset, stage_parts
from recbole_kd.data.split_and_loaders import Loaders, Splits, make_loaders, split_data
from recbole_kd.integration.recbole_config import make_config
from recbole_kd.model.build_model import fresh_model
from recbole_kd.pipeline.model_choices import default_setting
from recbole_kd.pipeline.request import without_negatives
from recbole_kd.scoring.scorer import Scorer

SMALL: dict[str, Any] = {
    "embedding_size": 8,
    "n_layers": 2,
    "hidden_size_list": [8, 8],
    "mlp_hidden_size": [8],
    "latent_dimension": 8,
    "mf_embedding_size": 4,
    "mlp_embedding_size": 4,
    "k": 5,
    "epochs": 1,
    "train_batch_size": 64,
    "eval_batch_size": 400,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user", "mode": "full"},
    "use_gpu": False,
    "gpu_id": "",
    "state": "ERROR",
    "show_progress": False,
}


@dataclass(frozen=True)
class TinyData:
    """Where a data set lies and what it is called."""

    data_path: str
    name: str


def write_tiny(folder: Path, name: str, *, prefix: str = "", n_users: int = 30, n_items: int = 40) -> TinyData:
    """Write an atomic file: users like the items of their own colour, but for holes."""
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(n_users):
        liked = [
            item
            for item in range(n_items)
            if (item + user) % 2 == 0 and (7 * item + 3 * user) % 5 and (item * user) % 11 != 3
        ]
        rows += [f"{prefix}u{user}\t{prefix}i{item}\t{100 * user + (17 * item) % n_items}" for item in liked]
    target = folder / name
    target.mkdir(parents=True)
    (target / f"{name}.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return TinyData(str(folder), name)


SEQUENTIAL: dict[str, Any] = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "MAX_ITEM_LIST_LENGTH": 10,
    "hidden_size": 8,
    "inner_size": 8,
}
"""What a sequential model has beside or instead of SMALL."""


def build_config(data: TinyData, model: str, **given: Any) -> Any:
    """A Config of a small model on the data."""
    setting = default_setting(model)
    defaults, _ = student_layers(model, data.name, setting=setting)
    small = {**SMALL, **(SEQUENTIAL if setting == "sequential" else {}), "data_path": data.data_path, **given}
    return make_config(model, data.name, without_negatives(model, data.name, defaults, small), small)


@dataclass
class Case:
    """A model with its data."""

    config: Any
    splits: Splits
    loaders: Loaders
    model: Any


def build_model(config: Any, splits: Splits) -> Any:
    """A fresh model, seeded."""
    init_seed(config["seed"], True)
    return fresh_model(config, stage_parts(config, splits.parts)[0])


def dataset_of(loader: Any) -> Any:
    """The part of the data that one of RecBole's loaders serves; RecBole's own functions read it there too."""
    return loader._dataset


def scorer_of(case: Case) -> Scorer:
    """The scorer of a student in training."""
    train = dataset_of(case.loaders.train)
    return Scorer(case.model, train.training_rows() if isinstance(train, SequenceDataset) else None)


def build_case(data: TinyData, model: str, **given: Any) -> Case:
    """Config, splits, loaders and a fresh model."""
    config, splits = read_and_split(data, model, given)
    return Case(config, splits, make_loaders(config, splits), build_model(config, splits))


_read: dict[str, bytes] = {}


def read_and_split(data: TinyData, model: str, given: dict[str, Any]) -> tuple[Any, Splits]:
    """A Config and its splits, the caller's own; files that have not changed are read and split once."""
    folder = Path(data.data_path) / data.name
    files = sorted((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir())
    key = repr((data, model, sorted(given.items()), files))
    if key not in _read:
        config = build_config(data, model, **given)
        both = (config, split_data(config))
        try:
            _read[key] = pickle.dumps(both)
        except (pickle.PicklingError, AttributeError, TypeError):  # a class of the test's own
            return both
    found: tuple[Any, Splits] = pickle.loads(_read[key])
    return found
