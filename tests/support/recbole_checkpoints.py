"""Checkpoints of RecBole's models, written by its own trainers.

The small data set has users, items and a knowledge graph.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from pathlib import Path
from typing import Any

from tests.support.helpers import dataset_of

FAMILIES = ("general_recommender", "sequential_recommender", "knowledge_aware_recommender", "context_aware_recommender")

SMALL: dict[str, Any] = {
    "epochs": 1,
    "embedding_size": 8,
    "hidden_size": 8,
    "inner_size": 8,
    "n_layers": 1,
    "n_heads": 1,
    "kg_embedding_size": 8,
    "hidden_size_list": [8, 8],
    "mlp_hidden_size": [8],
    "latent_dimension": 8,
    "mf_embedding_size": 4,
    "mlp_embedding_size": 4,
    "k": 5,
    "num_clusters": 4,
    "MAX_ITEM_LIST_LENGTH": 8,
    "train_batch_size": 256,
    "eval_batch_size": 4096,
    "topk": [10],
    "valid_metric": "MRR@10",
    "gpu_id": "",
    "use_gpu": False,
    "state": "ERROR",
    "show_progress": False,
    "load_col": {
        "inter": ["user_id", "item_id", "label", "timestamp"],
        "user": ["user_id", "age"],
        "item": ["item_id", "class", "year"],
    },
    "selected_features": ["class"],
}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "context_aware_recommender": {
        "train_neg_sample_args": None,
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
        "metrics": ["AUC"],
        "valid_metric": "AUC",
    },
}
_LABELLED_HISTORIES = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "labeled"},
    "metrics": ["AUC"],
    "valid_metric": "AUC",
}
_ENTITIES = {
    "additional_feat_suffix": ["ent", "rel"],
    "load_col": {
        "inter": ["user_id", "item_id", "timestamp"],
        "kg": ["head_id", "relation_id", "tail_id"],
        "link": ["item_id", "entity_id"],
        "ent": ["ent_id", "ent_emb"],
        "rel": ["rel_id", "rel_emb"],
    },
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
    "alias_of_entity_id": ["ent_id"],
    "alias_of_relation_id": ["rel_id"],
    "preload_weight": {"ent_id": "ent_emb", "rel_id": "rel_emb"},
}
GRAPH = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
OF_MODEL: dict[str, dict[str, Any]] = {
    "DIN": _LABELLED_HISTORIES,
    "DIEN": _LABELLED_HISTORIES,
    "GRU4RecKG": _ENTITIES,
    "KSR": {**_ENTITIES, "kg_embedding_size": 8},
    **{name: {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}} for name in ("FPMC", "TransRec")},
    "S3Rec": {"train_stage": "pretrain", "item_attribute": "class", "pretrain_epochs": 1, "save_step": 1},
    "RaCT": {"train_stage": "actor_pretrain", "pretrain_epochs": 1, "save_step": 1},
    "ConvNCF": {
        "cnn_channels": [1, 8, 8, 8],
        "cnn_kernels": [2, 2, 2],
        "cnn_strides": [2, 2, 2],
        "train_method": "no_pretrain",
    },
    "KD_DAGFM": {"phase": "teacher_training"},
    "FEARec": {"n_layers": 2},
    "DGCF": {"train_batch_size": 32},
    **{name: {"embedding_size": 8, "hidden_size": 8, "n_layers": 2} for name in ("SASRecCPR",)},
}
NOT_TRAINED = ("KSR",)
"""Those that cannot train on current versions of the libraries: KSR multiplies single with double precision."""
ODD = (
    "Pop",
    "EASE",
    "ItemKNN",
    "AsymKNN",
    "SLIMElastic",
    "LightGCN",
    "DMF",
    "SASRecF",
    "FDSA",
    "GRU4RecF",
    "DIN",
    "DIEN",
    "KGCN",
    "RippleNet",
)
"""Those whose files hold more than weights: matrices, a layer, a dictionary of tensors, or values of a run."""


def model_names() -> dict[str, str]:
    """Name of each of RecBole's models but the two of outside libraries, to its family."""
    found = {}
    for family in FAMILIES:
        package = importlib.import_module(f"recbole.model.{family}")
        for module in pkgutil.iter_modules(package.__path__):
            for name, value in inspect.getmembers(
                importlib.import_module(f"{package.__name__}.{module.name}"), inspect.isclass
            ):
                if name.lower() == module.name:
                    found[value.__name__] = family
    return found


def write_data(folder: Path) -> None:
    """Write 40 users and 130 items as the data set ``small`` with all kinds of files."""
    home = folder / "small"
    home.mkdir(parents=True)
    rows = ["user_id:token\titem_id:token\tlabel:float\ttimestamp:float"]
    for user in range(40):
        for step in range(14):
            rows.append(
                f"u{user}\ti{(7 * user + step * (user % 5 + 1)) % 130}\t{(user + step) % 2}\t{1000 * user + step}"
            )
    rows += [f"u{item % 40}\ti{item}\t{item % 2}\t{10**6 + item}" for item in range(130)]
    (home / "small.inter").write_text("\n".join(dict.fromkeys(rows)) + "\n", encoding="utf-8")
    users = [f"u{user}\t{20 + user % 7}" for user in range(40)]
    (home / "small.user").write_text("\n".join(["user_id:token\tage:token", *users]) + "\n", encoding="utf-8")
    items = [f"i{item}\tc{item % 3} c{item % 5}\t{1990 + item % 9}" for item in range(130)]
    (home / "small.item").write_text(
        "\n".join(["item_id:token\tclass:token_seq\tyear:token", *items]) + "\n", encoding="utf-8"
    )
    facts = [f"e{item}\tr{item % 3}\te{(item * 3 + 1) % 150}" for item in range(150)]
    (home / "small.kg").write_text(
        "\n".join(["head_id:token\trelation_id:token\ttail_id:token", *facts]) + "\n", encoding="utf-8"
    )
    for short, count in (("ent", 150), ("rel", 3)):
        rows = [
            f"{short[0]}{row}\t{' '.join(str(round(((row * 7 + n) % 11) / 11, 2)) for n in range(8))}"
            for row in range(count)
        ]
        (home / f"small.{short}").write_text(
            "\n".join([f"{short}_id:token\t{short}_emb:float_seq", *rows]) + "\n", encoding="utf-8"
        )
    links = [f"i{item}\te{item}" for item in range(130)]
    (home / "small.link").write_text("\n".join(["item_id:token\tentity_id:token", *links]) + "\n", encoding="utf-8")


def train(name: str, family: str, data: Path, home: Path) -> Any:
    """Train ``name`` for one epoch in ``home`` as RecBole's quick start does; its trainer, with the file written."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    given = {
        **SMALL,
        **OF_FAMILY.get(family, {}),
        **OF_MODEL.get(name, {}),
        "data_path": str(data),
        "checkpoint_dir": str(home),
    }
    if family == "sequential_recommender" and name not in ("DIN", "DIEN"):
        given = {"train_neg_sample_args": None, **given}
    if family == "knowledge_aware_recommender":
        given["load_col"] = {**given["load_col"], **GRAPH}
    before = os.getcwd()
    home.mkdir(parents=True, exist_ok=True)
    os.chdir(home)
    try:
        config = Config(model=name, dataset="small", config_dict=given)
        init_seed(config["seed"], config["reproducibility"])
        loaders = data_preparation(config, create_dataset(config))
        model = get_model(name)(config, dataset_of(loaders[0]))
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        if name in NOT_TRAINED:
            trainer._save_checkpoint(0, verbose=False)
        else:
            trainer.fit(*loaders[:2], verbose=False)
    finally:
        os.chdir(before)
    return trainer
