"""Raw errors of RecBole, and keys that its functions pass over, are sentences where a configuration names ``kd``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model

import recbole_kd
from recbole_kd.errors import ConfigError, DataError
from recbole_kd.pipeline import configured_trainer
from tests.support.helpers import SEQUENTIAL, SMALL, TinyData, write_tiny

KD: dict[str, Any] = {"kd": "CE", "kd_k": 5}
HISTORIES = {**SEQUENTIAL, "train_neg_sample_args": None}


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py"])


def config_of(data: TinyData, model: str = "MF", **keys: Any) -> Config:
    return Config(model=model, dataset=data.name, config_dict={**SMALL, "data_path": data.data_path, **KD, **keys})


@pytest.fixture
def without_times(tmp_path: Path) -> TinyData:
    data = write_tiny(tmp_path, "tiny")
    file = tmp_path / "tiny" / "tiny.inter"
    file.write_text("".join("\t".join(line.split("\t")[:2]) + "\n" for line in file.read_text().splitlines()))
    return data


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"kd_compare": True}, "kd_compare=True has no effect in RecBole's own functions"),
        ({"kd_track": ["train_ndcg", "teacher_ranks"]}, "kd_track=teacher_ranks has no effect in RecBole's own"),
        ({"nproc": 2}, r"nproc=2 has no effect in RecBole's run_recbole.*run\(\.\.\., nproc=2\)"),
    ],
)
def test_a_key_without_effect_is_refused(keys: dict[str, Any], said: str, tiny_dataset: TinyData) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(tiny_dataset, **keys)


@pytest.mark.parametrize("key", ["kd_track", "kd_compare", "nproc", "output_dir"])
@pytest.mark.parametrize(
    "value", [-1, 1.5, True, b"x", {"a": 1}, object(), torch.ones(2), len], ids=lambda value: type(value).__name__
)
def test_a_value_of_a_wrong_type_is_a_sentence_too(key: str, value: Any, tiny_dataset: TinyData) -> None:
    with pytest.raises(ConfigError, match=f"{key}="):
        config_of(tiny_dataset, **{key: value})


def test_keys_with_an_effect_and_recboles_processes_pass(
    tiny_dataset: TinyData, caplog: pytest.LogCaptureFixture
) -> None:
    config_of(tiny_dataset, kd_compare=False, kd_track=["train_ndcg"], nproc=1)
    recboles = {"nproc": 2, "local_rank": 1, "world_size": -1}  # as RecBole's run gives them to each process
    try:
        assert config_of(tiny_dataset, **recboles)["kd"] == "CE"
    except (AssertionError, RuntimeError, ValueError) as error:  # RecBole's own: no process group in this test
        assert not isinstance(error, ConfigError), error
    with caplog.at_level(logging.WARNING):
        config_of(tiny_dataset, output_dir="x")
    assert "output_dir=x has no effect in RecBole's own functions" in caplog.text


@pytest.mark.parametrize("given", [None, {"distribution": "none"}])
def test_mf_without_negatives_is_a_sentence(given: Any, tiny_dataset: TinyData) -> None:
    config = Config(model="MF", dataset="tiny", config_dict={**SMALL, "data_path": tiny_dataset.data_path})
    dataset = create_dataset(config)
    config["train_neg_sample_args"] = given
    with pytest.raises(ConfigError, match="train_neg_sample_args is empty and MF compares"):
        get_model("MF")(config, dataset)


def test_a_benchmark_file_that_is_not_there_is_a_sentence(tiny_dataset: TinyData) -> None:
    config = config_of(tiny_dataset, benchmark_filename=["train", "valid", "nothere"])
    with pytest.raises(DataError, match=r"benchmark_filename=.*tiny\.train\.inter"):
        create_dataset(config)


def test_training_by_user_is_refused_before_a_teacher_is_trained(
    tiny_dataset: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configured_trainer, "teacher_for", lambda *_: pytest.fail("it asked for its teacher"))
    given = {"teacher": "SASRec", "checkpoint_dir": str(tmp_path), "train_by_user": True}
    config = config_of(tiny_dataset, "SASRec", **HISTORIES, **given)
    train, valid, _ = data_preparation(config, create_dataset(config))
    trainer = recbole_kd.KDTrainer(config, get_model("SASRec")(config, train.dataset))
    with pytest.raises(ConfigError, match="train_by_user=True has no effect on this SequentialDataset"):
        trainer.fit(train, valid)


def test_histories_without_times_are_a_sentence(without_times: TinyData) -> None:
    columns = {"load_col": {"inter": ["user_id", "item_id"]}}
    config = config_of(without_times, "SASRec", **HISTORIES, **columns)
    with pytest.raises(DataError, match=r"SASRec orders the histories by time .* without its column timestamp"):
        data_preparation(config, create_dataset(config))


def test_benchmark_files_without_histories_are_a_sentence(tmp_path: Path) -> None:
    data = write_tiny(tmp_path, "tiny")
    content = (tmp_path / "tiny" / "tiny.inter").read_text()
    for part in ("train", "valid", "test"):
        (tmp_path / "tiny" / f"tiny.{part}.inter").write_text(content)
    config = config_of(data, "SASRec", **HISTORIES, benchmark_filename=["train", "valid", "test"])
    with pytest.raises(DataError, match="have no column item_id_list"):
        create_dataset(config)


def test_a_training_without_kd_keeps_recboles_errors(tiny_dataset: TinyData) -> None:
    config = config_of(tiny_dataset, kd=None, kd_k=None, benchmark_filename=["train", "valid", "nothere"])
    with pytest.raises(ValueError, match="not exist") as caught:
        create_dataset(config)
    assert not isinstance(caught.value, recbole_kd.KDError)


def test_a_random_order_asks_no_times(tiny_dataset: TinyData) -> None:
    """Leave-one-out in a random order reads no times; that in time still refuses a column which is left out."""
    columns = {"load_col": {"inter": ["user_id", "item_id"]}}
    split = {"split": {"LS": "valid_and_test"}, "group_by": "user", "mode": "full"}
    random = recbole_kd.prepare_data(config_of(tiny_dataset, **columns, eval_args={**split, "order": "RO"}))
    assert len(random.train) and len(random.test)
    with pytest.raises(DataError, match=r"load_col=.* leaves out"):
        recbole_kd.prepare_data(config_of(tiny_dataset, **columns, eval_args={**split, "order": "TO"}))
