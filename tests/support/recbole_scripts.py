"""Parts of a RecBole script, made by RecBole's own functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from recbole_kd.data.histories.sequence_dataset import stage_parts
from recbole_kd.data.split_and_loaders import split_data
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.export import export_teacher
from tests.support.helpers import SEQUENTIAL, SMALL, TinyData, build_config


def recbole_parts(data: TinyData, model: str, folder: Path, **given: Any) -> tuple[Any, Any, Any, Any, Any]:
    """What every RecBole script begins with; nothing of ours but the keys."""
    sizes = {"kd_k": 5, "kd_n_samples": 5, "kd_candidates": 10} if given.get("kd", "RCEKD") == "RCEKD" else {}
    keys = {"kd": "RCEKD", **sizes, "metric_decimal_place": 10, "valid_metric": "NDCG@10"}
    config = Config(
        model=model,
        dataset=data.name,
        config_dict={**SMALL, "data_path": data.data_path, "checkpoint_dir": str(folder), **keys, **given},
    )
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    init_seed(config["seed"], True)
    student = get_model(config["model"])(config, train_data.dataset).to(config["device"])
    return config, student, train_data, valid_data, test_data


def recboles(data: TinyData, model: str, **given: Any) -> tuple[Any, Any, Any, Any]:
    """Config and loaders, made by RecBole's own functions alone."""
    sequential = model in SEQUENTIAL_MODELS
    keys = {
        **SMALL,
        **(SEQUENTIAL | {"train_neg_sample_args": None} if sequential else {}),
        "data_path": data.data_path,
        **given,
    }
    config = Config(model=model, dataset=data.name, config_dict=keys)
    init_seed(config["seed"], config["reproducibility"])
    return (config, *data_preparation(config, create_dataset(config)))


def folder_of(data: TinyData, model: str, folder: Path, store: str = "auto", **given: Any) -> Path:
    """A teacher of random weights in a folder, made on our split."""
    config = build_config(data, model, **given)
    splits = split_data(config)
    part = stage_parts(config, splits.parts[:1])[0]
    init_seed(5, True)
    scorer = Scorer(get_model(config["model"])(config, part), getattr(part, "universe", None))
    settings = {
        key: value
        for key, value in config.final_config_dict.items()
        if isinstance(value, str | int | float | list | dict | None)
    }
    export_teacher(
        scorer, folder, {"model": model, "dataset": data.name, "settings": settings, "data": splits.fingerprint}, store
    )
    return folder


SEQUENTIAL_MODELS = ("SASRec", "HSTU", "GRU4Rec")
