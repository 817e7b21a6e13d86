"""RecBole's own functions know our models, and RecBole's models are none the wiser."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

import recbole_kd  # noqa: F401  (registers)
from recbole_kd.errors import ConfigError
from recbole_kd.integration import register as registration
from tests.support.fresh import python

SETTINGS = {
    "epochs": 1,
    "embedding_size": 8,
    "hidden_size": 8,
    "inner_size": 8,
    "n_layers": 1,
    "n_heads": 1,
    "MAX_ITEM_LIST_LENGTH": 5,
    "user_inter_num_interval": "[200,inf)",
    "train_batch_size": 8192,
    "eval_batch_size": 1_000_000,
    "topk": 100,
    "valid_metric": "MRR@100",
    "metric_decimal_place": 10,
    "gpu_id": "",
    "state": "ERROR",
    "show_progress": False,
}


def test_importing_does_not_switch_anomaly_detection_on(tmp_path: Path) -> None:
    """A module of RecBole's sequential models switches it on for the whole process.

    It costs each backward pass a fifth.
    """
    code = (
        "import sys, torch, recbole_kd, recbole.quick_start\n"
        "print('recbole.model.sequential_recommender.sine' in sys.modules, torch.is_anomaly_enabled())"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout.split()[-2:] == ["True", "False"], done.stderr


def test_recboles_functions_know_mf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.config import Config
    from recbole.quick_start import load_data_and_model, run_recbole
    from recbole.utils import get_model, get_trainer

    from recbole_kd.model.mf import MF

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["test"])
    assert get_model("MF") is MF
    config = Config(model="MF", dataset="ml-100k", config_dict=dict(SETTINGS))
    assert config["model"] == "MF" and config.model_class is MF
    assert get_trainer(config["MODEL_TYPE"], "MF").__name__ == "Trainer"

    result = run_recbole(model="MF", dataset="ml-100k", config_dict=dict(SETTINGS))
    (file,) = (tmp_path / "saved").glob("MF-*.pth")
    read, model, _, _, _, test = load_data_and_model(file)
    assert type(model) is MF and read.model_class is MF
    again = get_trainer(read["MODEL_TYPE"], "MF")(read, model).evaluate(test, load_best_model=False)
    assert again == result["test_result"]


def test_property_file_lies_below_files_dict_and_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.config import Config

    from recbole_kd.config.property_layers import properties_dir, read_yaml
    from recbole_kd.model.mf import MF

    ours = read_yaml(properties_dir() / "model" / "MF.yaml")
    file = tmp_path / "own.yaml"
    file.write_text("embedding_size: 21\ninit_std: 2e-1\nloss_reduction: mean\n")
    monkeypatch.setattr(sys, "argv", ["test"])
    plain = Config(model="MF", dataset="ml-100k")
    assert ours and {key: plain[key] for key in ours} == ours
    assert Config(model=MF, dataset="ml-100k").final_config_dict == plain.final_config_dict

    monkeypatch.setattr(sys, "argv", ["test", "--loss_reduction=sum"])
    config = Config("MF", "ml-100k", config_file_list=[str(file)], config_dict={"init_std": 0.3})
    assert (config["embedding_size"], config["init_std"], config["loss_reduction"]) == (21, 0.3, "sum")


def test_a_class_that_only_shares_the_name_gets_no_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.config import Config
    from recbole.model.general_recommender.bpr import BPR

    monkeypatch.setattr(sys, "argv", ["test"])
    foreign = type("MF", (BPR,), {})
    assert "init_std" not in Config(model=foreign, dataset="ml-100k")


def test_registering_again_changes_nothing() -> None:
    from recbole.config import Config
    from recbole.utils import get_model

    get_model("MF")

    before = (Config._load_internal_config_dict, dict(registration._registered), set(sys.modules))
    registration.register()
    registration.register([get_model("MF")])
    assert (Config._load_internal_config_dict, dict(registration._registered), set(sys.modules)) == before


@pytest.mark.parametrize("name", ["BPR", "Bpr", "SASREC", "LightGBM", "Xgboost", "KGAT", "DeepFM", "mf"])
def test_a_taken_name_is_refused(name: str) -> None:
    from recbole.model.general_recommender.bpr import BPR
    from recbole.utils import get_model

    with pytest.raises(ConfigError, match=f"'{name}' is taken by .*{name.lower()}"):
        registration.register([type(name, (BPR,), {})])
    assert get_model("BPR") is BPR


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="dict"):
        registration.register([dict])


@pytest.mark.usefixtures("own_models")
def test_ones_own_model_is_registered_and_its_checkpoints_are_read() -> None:
    from recbole.model.abstract_recommender import SequentialRecommender
    from recbole.utils import get_model

    from recbole_kd.integration import model_classes
    from recbole_kd.integration.inert_objects import Reference

    own = type("MyOwnEncoder", (SequentialRecommender,), {"__module__": "__main__"})
    registration.register([own])
    assert get_model("MyOwnEncoder") is own
    assert model_classes.model_class(Reference("__main__", "MyOwnEncoder")) is own


READ = """
import pickle, recbole_kd
from recbole.utils import get_model

config = pickle.load(open("config", "rb"))
print(config["model"], config.model_class is get_model("MF"), config["init_std"])
"""


def test_a_config_travels_to_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.config import Config

    monkeypatch.setattr(sys, "argv", ["test"])
    config = Config(model="MF", dataset="ml-100k")
    (tmp_path / "config").write_bytes(pickle.dumps(config))
    done = python("-c", READ, cwd=tmp_path)
    assert done.stdout.split() == ["MF", "True", str(config["init_std"])], done.stderr
