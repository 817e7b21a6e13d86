"""Names at the top of the package, and import paths of earlier versions."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.config import Config
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.loss import BPRLoss

import recbole_kd
from recbole_kd.config.known_keys import keys_of
from recbole_kd.scoring.vector_models import vector_function
from recbole_kd.startup.old_paths import OLD_PATHS
from tests.support.fresh import python
from tests.support.helpers import dataset_of, write_tiny
from tests.support.runs import words


@pytest.mark.parametrize("old", OLD_PATHS)
def test_an_old_path_is_todays_module(old: str) -> None:
    module, today = importlib.import_module(old), importlib.import_module(OLD_PATHS[old])
    assert module is today and module.__name__ == OLD_PATHS[old] and module.__spec__.name == OLD_PATHS[old]  # type: ignore[union-attr]
    parent, _, name = old.rpartition(".")
    assert getattr(importlib.import_module(parent), name) is today


def test_old_names_as_attributes_in_a_new_process(tmp_path: Path) -> None:
    script = """
import recbole_kd
assert recbole_kd.register.register and recbole_kd.vectors.vectors.register and recbole_kd.compat.apply
from recbole_kd.data.preparation import make_loaders, split_data
from recbole_kd.loss import cross_entropy
from recbole_kd.distiller.table import DISTILLERS
assert DISTILLERS is recbole_kd.DISTILLERS and split_data is recbole_kd.data.split_and_loaders.split_data
"""
    done = python("-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_name_that_never_was_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'vektors'"):
        _ = recbole_kd.vektors
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("recbole_kd.vektors")


@pytest.mark.parametrize("model", ["MF", "SASRec"])
def test_prepare_data_gives_what_a_model_trains_on(model: str, tmp_path: Path) -> None:
    data = write_tiny(tmp_path, "tiny")
    softmax = {"train_neg_sample_args": None} if model == "SASRec" else {}
    columns = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    config = Config(
        model=model,
        dataset="tiny",
        config_dict={"data_path": str(tmp_path), "show_progress": False, **columns, **softmax},
    )
    found = recbole_kd.prepare_data(config)
    dataset, train, valid, test = found
    assert dataset is found.dataset and dataset.user_num > 1 and data
    student = importlib.import_module("recbole.utils").get_model(model)(config, dataset_of(train))
    loss = student.calculate_loss(next(iter(train)))
    assert torch.isfinite(loss) and len(valid) and len(test)


class Table(GeneralRecommender):
    """Two tables."""

    input_type = recbole_kd.model.mf.MF.input_type  # type: ignore[attr-defined]

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.users, self.items = (torch.nn.Embedding(n, config["table_width"]) for n in (self.n_users, self.n_items))
        self.loss = BPRLoss()

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        users, positives, negatives = (interaction[name] for name in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        vectors = self.users(users)
        return self.loss((vectors * self.items(positives)).sum(1), (vectors * self.items(negatives)).sum(1))  # type: ignore[no-any-return]

    def predict(self, interaction: Any) -> torch.Tensor:
        return (self.users(interaction[self.USER_ID]) * self.items(interaction[self.ITEM_ID])).sum(1)


def test_a_registered_model_runs_with_its_keys_and_keyword_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recbole_kd.register_model(
        Table, vectors=lambda model: (model.users.weight, model.items.weight), keys=["table_width"]
    )
    recbole_kd.register_model(Table)  # again: nothing is taken back
    assert keys_of("Table") == {"table_width"} and vector_function(Table) is not None
    given = dict(word.removeprefix("--").split("=", 1) for word in words(tmp_path, model="Table", kd_compare="False"))
    named = {key: given.pop(key) for key in ("model", "teacher", "kd", "dataset")}
    keys = {key: recbole_kd.config.parsing.yaml.safe_load(value) for key, value in given.items()}  # type: ignore[attr-defined]
    result = recbole_kd.run_recbole_kd(**named, config_dict={"epochs": 7}, **{**keys, "epochs": 1, "table_width": 4})
    assert result["distilled"]["epochs"] == 1 and result["distilled"]["parameters"] % 4 == 0
