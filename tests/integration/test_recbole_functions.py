"""RecBole's own functions distil where a configuration names ``kd``, and are what they were where none does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import load_data_and_model, objective_function, run_recbole
from recbole.trainer import HyperTuning, Trainer
from recbole.utils import ModelType, get_model, get_trainer, init_seed

import recbole_kd
from recbole_kd.data.item_features.matrix_files import IDS_SUFFIX
from recbole_kd.pipeline.from_recbole import request_of
from tests.support.fresh import python
from tests.support.helpers import SEQUENTIAL, SMALL, TinyData, dataset_of
from tests.support.own_model import OwnModel

KD: dict[str, Any] = {
    "kd": "RCEKD", "teacher": "LightGCN", "kd_k": 5, "kd_n_samples": 5, "kd_candidates": 10,
    "teacher_config": {"epochs": 2, "embedding_size": 8},
}  # fmt: skip
SEQUENCES = {**SEQUENTIAL, "train_neg_sample_args": None}


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py"])


@pytest.fixture(scope="module")
def keys(tiny_dataset: TinyData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every run here has in common: one cache, so that each teacher is trained once."""
    folder = tmp_path_factory.mktemp("functions")
    return {
        **SMALL, "data_path": tiny_dataset.data_path, "dataset": "tiny", "epochs": 3, "learning_rate": 0.05,
        "metric_decimal_place": 10,
        "valid_metric": "NDCG@10", "checkpoint_dir": str(folder / "saved"), "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "runs"),
    }  # fmt: skip


def run(keys: dict[str, Any], model: str, **given: Any) -> dict[str, Any]:
    """RecBole's run_recbole, by its dictionary."""
    return dict(run_recbole(model=model, dataset="tiny", config_dict={**keys, **given}))


def figures(result: dict[str, Any]) -> tuple[float, ...]:
    return (float(result["best_valid_score"]), *map(float, result["test_result"].values()))


def four_runs(keys: dict[str, Any], model: str, **given: Any) -> list[tuple[float, ...]]:
    kd = {**KD, **given.pop("kd", {})}
    return [
        figures(run(keys, model, **given)),
        figures(run(keys, model, **given, **kd, kd_weight=1)),
        figures(run(keys, model, **given, **kd, kd_weight=1e6)),
        figures(run(keys, model, **given, **{**kd, "kd_k": 8, "kd_weight": 1})),
    ]


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("BPR", {}),
        ("NeuMF", {}),
        ("SASRec", SEQUENCES),
        ("HSTU", {**SEQUENCES, "kd": {"teacher": "HSTU", "teacher_config": {"epochs": 1, "embedding_size": 16}}}),
    ],
)
def test_weight_and_method_change_what_run_recbole_comes_to(
    keys: dict[str, Any], model: str, given: dict[str, Any]
) -> None:
    plain, *distilled = four_runs(keys, model, **given)
    assert len({plain, *distilled}) == 4, (plain, distilled)


def test_a_multimodal_teacher(keys: dict[str, Any], tiny_dataset: TinyData, tmp_path: Path) -> None:
    tokens = [f"i{item}" for item in range(40)]
    path = tmp_path / "image.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32))
    path.with_suffix(IDS_SUFFIX).write_text("\n".join(tokens) + "\n")
    given = {
        "item_features": {"visual": str(path)},
        "kd": {"teacher": "BM3", "teacher_config": {"epochs": 1, "embedding_size": 8}},
    }
    assert len(set(four_runs(keys, "MF", **given))) == 4


@pytest.mark.parametrize("known_by", ["name", "class"])
def test_a_model_class_of_ones_own(keys: dict[str, Any], known_by: str, own_models: None) -> None:
    """A model is registered, for RecBole's functions that find models by name.

    Or it is given to Config as a class, as RecBole's guide does.
    """
    given = {**keys, "own_scale": 2.0, "allow_unknown": "own_scale"}
    if known_by == "name":
        recbole_kd.integration.register.register([OwnModel])
        assert len(set(four_runs(given, "OwnModel"))) == 4
        return
    config = Config(model=OwnModel, dataset="tiny", config_dict={**given, **KD})
    trainer, loaders = trained(config)
    assert type(trainer) is recbole_kd.KDTrainer and trainer.kd_loss[0] > 0 and len(loaders) == 3


def trained(config: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    """A script of RecBole's own functions, step by step."""
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, dataset_of(loaders[0])).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(loaders[0], loaders[1], saved=True, show_progress=False)
    return trainer, loaders


# -- without kd
# -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["BPR", "SASRec", "LightGCN", "MultiVAE"])
def test_without_kd_the_trainer_is_recboles_own(keys: dict[str, Any], model: str) -> None:
    config = Config(model=model, dataset="tiny", config_dict={**keys, **(SEQUENCES if model == "SASRec" else {})})
    found = get_trainer(config["MODEL_TYPE"], model)
    assert issubclass(found, Trainer) and found.__name__ == "Trainer"
    dataset = create_dataset(config).build()[0]
    assert type(found(config, get_model(model)(config, dataset))) is Trainer


@pytest.mark.parametrize(
    ("kind", "model", "trainer"),
    [
        (ModelType.TRADITIONAL, "EASE", "TraditionalTrainer"),
        (ModelType.KNOWLEDGE, "CKE", "KGTrainer"),
        (ModelType.GENERAL, "NCL", "NCLTrainer"),
        (ModelType.CONTEXT, "FM", "Trainer"),
        (ModelType.GENERAL, "NoSuchModel", "Trainer"),
    ],
)
def test_other_models_get_recboles_trainers(kind: Any, model: str, trainer: str) -> None:
    import recbole.trainer

    assert get_trainer(kind, model) is getattr(recbole.trainer, trainer)


# -- where the keys come from
# ------------------------------------------------------------------------------------------------


def test_keys_from_a_file_a_dictionary_and_the_command_line_are_one_run(
    keys: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(KD))
    by_dict = run(keys, "BPR", **KD)
    by_file = run_recbole(
        model="BPR", dataset="tiny", config_file_list=[str(tmp_path / "kd.yaml")], config_dict=dict(keys)
    )
    words = [f"--{key}={value}" for key, value in KD.items() if key != "teacher_config"]
    monkeypatch.setattr(
        sys,
        "argv",
        ["run_recbole.py", *words, "--teacher.epochs=2", "--teacher.embedding_size=8", "--unknown_of_a_script=1"],
    )
    by_line = run(keys, "BPR")
    assert figures(by_dict) == figures(by_file) == figures(by_line) != figures(run(keys, "BPR", kd_weight=0))


SCRIPT = """
import argparse
import recbole_kd
from recbole.quick_start import run
parser = argparse.ArgumentParser()
parser.add_argument("--model", "-m", type=str, default="BPR")
parser.add_argument("--dataset", "-d", type=str, default="ml-100k")
parser.add_argument("--config_files", type=str, default=None)
args, _ = parser.parse_known_args()
if __name__ == "__main__":
    files = args.config_files.strip().split(" ") if args.config_files else None
    print(run(args.model, args.dataset, config_file_list=files)["best_valid_score"])
"""


def test_recboles_script_with_one_import_and_a_file(keys: dict[str, Any], tmp_path: Path) -> None:
    """A YAML file and RecBole's own command, in a process of its own."""
    (tmp_path / "run_recbole.py").write_text(SCRIPT)
    (tmp_path / "project.yaml").write_text(yaml.safe_dump(keys))
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(KD))
    words = ["run_recbole.py", "--model=BPR", "--dataset=tiny", "--config_files=project.yaml kd.yaml"]
    done = python(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.strip().splitlines()[-1]) == pytest.approx(
        float(run(keys, "BPR", **KD)["best_valid_score"]), abs=1e-9
    )


# -- the same as run_recbole_kd
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "kd", "given"),
    [
        ("MF", {}, {}),
        ("BPR", {"kd": "DE", "kd_k": None, "kd_n_samples": None, "kd_candidates": None}, {}),
        ("LightGCN", {"teacher": "MF"}, {"n_layers": 1}),
        ("SASRec", {}, {**SEQUENCES, "setting": "sequential"}),
        ("HSTU", {"teacher": "SASRec", "teacher_config": {"epochs": 1}}, {**SEQUENCES, "setting": "sequential"}),
    ],
)
def test_run_recbole_and_run_recbole_kd_are_one_training(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch, model: str, kd: dict[str, Any], given: dict[str, Any]
) -> None:
    """Losses and validation scores by epoch, bit for bit, of the same keys, seed and split."""
    merged = {**KD, **kd, **given}
    same = {
        key: value for key, value in {**keys, **merged}.items() if value is not None or key == "train_neg_sample_args"
    }
    same |= {"kd_compare": False, "stopping_step": 10, "time_order": "recbole", "eval_batch_size": 400}
    same.pop("dataset")
    names = {"teacher": same.pop("teacher"), "kd": same.pop("kd")}
    ours = recbole_kd.run_recbole_kd(model, dataset="tiny", config_dict=same, **names)["distilled"]
    seen: list[Any] = []
    fit = recbole_kd.KDTrainer.fit
    monkeypatch.setattr(recbole_kd.KDTrainer, "fit", lambda self, *a, **k: (seen.append(self), fit(self, *a, **k))[1])
    theirs = run_recbole(model=model, dataset="tiny", config_dict={**same, **names})
    (trainer,) = [trainer for trainer in seen if trainer.config["recbole_data"]]
    assert trainer.kd_loss == ours["kd_loss"]
    for name in ("base_loss", "valid_ndcg@10"):
        assert [epoch[name] for epoch in trainer.history] == ours["history"][name], name
    assert theirs["test_result"]["ndcg@10"] == pytest.approx(ours["test"]["ndcg@10"], abs=1e-12)


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_the_papers_protocol(keys: dict[str, Any], model: str) -> None:
    """Training items alone are left out, and histories hold them alone: as in a run of run_recbole_kd."""
    given = {
        "eval_protocol": "paper",
        "metrics": ["Recall", "NDCG"],
        "topk": [20],
        "valid_metric": "NDCG@20",
        "epochs": 2,
    }
    given["stopping_step"] = 10
    given |= {**SEQUENCES, "setting": "sequential"} if model == "SASRec" else {}
    theirs = run(keys, model, **KD, **given)
    same = {**keys, **KD, **given, "kd_compare": False, "time_order": "recbole"}
    for key in ("dataset", "kd", "teacher"):
        same.pop(key)
    ours = recbole_kd.run_recbole_kd(model, "LightGCN", "RCEKD", "tiny", config_dict=same)["distilled"]
    assert {name: float(value) for name, value in theirs["test_result"].items()} == pytest.approx(
        ours["test"], abs=1e-9
    )
    plain = run(keys, model, **KD, **{**given, "eval_protocol": "recbole"})
    assert theirs["best_valid_result"] != plain["best_valid_result"] or theirs["test_result"] != plain["test_result"]


# -- searches
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [recbole_kd.objective_function, objective_function])
@pytest.mark.filterwarnings("ignore:`report` is meant")
def test_hyper_tuning_finds_the_best_by_validation(keys: dict[str, Any], tmp_path: Path, objective: Any) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**keys, **KD, "model": "BPR"}))
    tuning = HyperTuning(
        objective, params_dict={"choice": {"kd_weight": [1.0, 1e4], "kd_k": [3, 8]}}, algo="exhaustive",
        fixed_config_file_list=[str(tmp_path / "base.yaml")],
    )  # fmt: skip
    tuning.run()
    scores = {name: float(result["best_valid_score"]) for name, result in tuning.params2result.items()}
    assert len(set(scores.values())) == 4, scores
    assert tuning.params2str(tuning.best_params) == max(scores, key=scores.__getitem__)
    assert len(list((Path(keys["cache_dir"]) / "teacher").glob("tiny-LightGCN-*.lock"))) == len(
        [path for path in (Path(keys["cache_dir"]) / "teacher").glob("tiny-LightGCN-*") if path.is_dir()]
    )


@pytest.mark.filterwarnings("ignore:`report` is meant")
def test_recboles_objective_warns_of_the_test_metric(keys: dict[str, Any]) -> None:
    given = {**keys, **KD, "model": "BPR"}
    with pytest.warns(UserWarning, match=r"TEST metrics.*recbole_kd\.objective_function"):
        objective_function(given)
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="RecBole's objective_function")
        recbole_kd.objective_function(given)


# -- refusals
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        ("BPR", {"kd": "NONSENSE"}, "NONSENSE"),
        ("BPR", {"kd": "NONSENSE", "teacher": None, "teacher_config": None, "teacher_path": "/nowhere"}, "NONSENSE"),
        ("BPR", {"teacher": None, "teacher_config": None, "teacher_path": "/nowhere"}, "/nowhere"),
        ("BPR", {"teacher_path": "/nowhere"}, "teacher_path"),
        ("BPR", {"teacher": None, "teacher_config": None}, "needs a teacher"),
        ("BPR", {"teacher": "LightGNC"}, "LightGCN"),
        ("BPR", {"kd_wieght": 3}, "kd_weight"),
        ("BPR", {"kd_k": 0}, "kd_k"),
        ("BPR", {"kd_weight": -1}, "kd_weight"),
        ("BPR", {"learning_rat": 0.1}, "learning_rate"),
        ("BPR", {"eval_args.order": "TO"}, "eval_args"),
        ("BPR", {"eval_protocol": "papers"}, "paper"),
        ("BPR", {"teacher_config": {"embeding_size": 8}}, "embedding_size"),
        ("BPR", {"split_seed": 7, "eval_args": {"order": "RO"}}, "split_seed"),
        ("BPR", {"time_order": "exact"}, "time_order"),
        ("SASRec", {**SEQUENCES, "setting": "general"}, "setting"),
        ("NCL", {}, "NCL"),
        ("RecVAE", {}, "RecVAE"),
        ("EASE", {}, "EASE"),
        ("FM", {}, "FM"),
    ],
)
def test_what_is_wrong_is_one_sentence_of_ours(
    keys: dict[str, Any], model: str, given: dict[str, Any], words: str
) -> None:
    wrong = {
        key: value
        for key, value in {**keys, **KD, **given}.items()
        if value is not None or key == "train_neg_sample_args"
    }
    with pytest.raises(recbole_kd.KDError, match=words) as refused:
        run_recbole(model=model, dataset="tiny", config_dict=wrong)
    assert "\n" not in str(refused.value)


def test_keys_of_a_method_without_the_method_are_warned_of(
    keys: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(model="BPR", dataset="tiny", config_dict={**keys, "kd_weight": 3.0})
    model = get_model("BPR")(config, create_dataset(config).build()[0])
    with caplog.at_level("WARNING"):
        get_trainer(config["MODEL_TYPE"], "BPR")(config, model)
    assert "kd_weight=3.0 has no effect without kd" in caplog.text


# -- after a run, and beside it
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_a_checkpoint_comes_back_with_a_trainer_that_distils(keys: dict[str, Any], model: str) -> None:
    config = Config(model=model, dataset="tiny", config_dict={**keys, **(SEQUENCES if model == "SASRec" else {}), **KD})
    trainer, (_, _, test) = trained(config)
    before = trainer.evaluate(test, load_best_model=True)
    read, student, _, train, valid, again = load_data_and_model(trainer.saved_model_file)
    other = get_trainer(read["MODEL_TYPE"], read["model"])(read, student)
    assert type(other) is recbole_kd.KDTrainer
    assert other.evaluate(again, load_best_model=False) == before
    other.fit(train, valid, saved=False)
    assert other.kd_loss[0] > 0


def test_a_saved_teacher_and_one_trained_on_demand_are_one(keys: dict[str, Any], tmp_path: Path) -> None:
    on_demand = run({**keys, "cache_dir": str(tmp_path)}, "BPR", **KD)
    (folder,) = [path for path in (tmp_path / "teacher").iterdir() if path.is_dir()]
    saved = {key: value for key, value in KD.items() if not key.startswith("teacher")} | {"teacher_path": str(folder)}
    assert figures(run(keys, "BPR", **saved)) == figures(on_demand)


def test_the_pairs_property_file_applies_beneath_what_the_user_sets(
    keys: dict[str, Any], tiny_dataset: TinyData
) -> None:
    pair = {"kd": "RCEKD", "teacher": "LightGCN"}
    config = Config(model="MF", dataset="ml-100k", config_dict=dict(pair))
    assert (config["learning_rate"], config["kd_weight"], config["kd_k"]) == (0.005, 5.0, 100)
    assert config["eval_args"]["order"] == "RO" and config["topk"] == [10]  # RecBole's, as without kd
    assert Config(model="MF", dataset="ml-100k", config_dict={**pair, "learning_rate": 0.1})["learning_rate"] == 0.1
    assert Config(model="MF", dataset="ml-100k", config_dict={})["learning_rate"] == 0.001
    asked = Config(model="MF", dataset="ml-100k", config_dict={**pair, "setting": "sequential"})
    assert asked["eval_args"]["split"] == {"LS": "valid_and_test"} and asked["eval_args"]["order"] == "TO"


def test_spawned_processes_get_functions_that_bring_recbole_kd() -> None:
    import pickle

    import recbole.quick_start.quick_start as theirs

    for function in (theirs.run, theirs.run_recbole, theirs.run_recboles, theirs.objective_function):
        assert b"recbole_kd" in pickle.dumps(function)


def test_several_runs_of_one_process_do_not_disturb_each_other(keys: dict[str, Any]) -> None:
    first = figures(run(keys, "BPR"))
    distilled = figures(run(keys, "BPR", **KD))
    assert (
        torch.is_tensor(torch.rand(1))
        and figures(run(keys, "BPR")) == first
        and figures(run(keys, "BPR", **KD)) == distilled
    )


def test_what_is_trained_beside_the_student_takes_one_process(keys: dict[str, Any]) -> None:
    """Where RecBole runs several, a teacher and an assistant are trained by the first that needs them."""
    config = Config(model="BPR", dataset="tiny", config_dict={**keys, **KD})
    config["nproc"], config["single_spec"], config["local_rank"] = 2, False, 1
    request = request_of(config)
    made = [
        request.student_config()[0],
        request.distilled_config("LightGCN", {"embedding_size": 4})[0],
        *request.teacher_configs()[0],
    ]
    assert [(one["nproc"], one["single_spec"], one["local_rank"]) for one in made] == 3 * [(1, True, 0)]
    assert made[1]["embedding_size"] == 4 and made[1]["kd_k"] == 5 and made[0]["kd"] is None


def test_a_file_that_names_code_is_refused(keys: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "kd.yaml").write_text("kd: os:system\nteacher: MF\n")
    with pytest.raises(recbole_kd.ConfigError, match="allow_code"):
        Config(model="BPR", dataset="tiny", config_file_list=[str(tmp_path / "kd.yaml")], config_dict=dict(keys))


def test_an_assistant_and_a_trajectory_are_made_on_demand(keys: dict[str, Any]) -> None:
    """TARec's teacher assistant is distilled first; HetComp's teacher keeps checkpoints of its training."""
    method = {"teacher": "LightGCN", "teacher_config": {"epochs": 2, "embedding_size": 16}, "kd_k": 5, "epochs": 1}
    plain = figures(run(keys, "BPR", epochs=1))
    for given in ({"kd": "TARec", "kd_n_negatives": 5}, {"kd": "HetComp"}):
        assert figures(run(keys, "BPR", **method, **given, kd_weight=1e4)) != plain
