"""Models that RecBole trains in stages are trained in all of them, for as many epochs as the run says."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_kd.cli.run import main
from recbole_kd.training.pretraining import epochs_of_pretraining, stages_of
from tests.support.helpers import TinyData, build_config, write_tiny
from tests.support.runs import refusal, run, words

QUICK: dict[str, str | None] = {
    "kd": "CD",
    "kd_k": None,
    "kd_n_samples": None,
    "kd_candidates": None,
    "teacher.embedding_size": None,
    "kd_compare": "False",
    "epochs": "1",
    "teacher.epochs": "1",
}
SEQUENTIAL = {"setting": "sequential", "eval_args.order": None}


def test_ract_is_trained_in_three_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--teacher.mlp_hidden_size=[8]", "--teacher.latent_dimension=8", "--teacher.metrics_k=10"]
    found = run(tmp_path, *small, teacher="RaCT", **QUICK)
    said = [line for line in capsys.readouterr().err.splitlines() if "is trained in 3 stages" in line]
    stages = [line.partition("; ")[2] for line in said]
    assert [stage.split(" takes")[0] for stage in stages] == ["stage 1, actor_pretrain,", "stage 2, critic_pretrain,"]
    assert all("takes 1 epochs" in stage for stage in stages)
    assert found["teacher"]["valid"] is not None and not list(tmp_path.rglob("pretrained.pth"))
    assert run(tmp_path, *small, teacher="RaCT", **QUICK)["teacher"]["cached"]


def test_s3rec_ranks_the_items_without_its_mask(tmp_path: Path) -> None:
    items = "".join(f"i{item}\tc{item % 3} c{item % 4}\n" for item in range(40))
    folder = Path(write_tiny(tmp_path / "data", "tiny").data_path) / "tiny"
    (folder / "tiny.item").write_text("item_id:token\tclass:token_seq\n" + items)
    columns = "{inter: [user_id, item_id, timestamp], item: [item_id, class]}"
    small = ["--teacher.hidden_size=8", "--teacher.inner_size=8", "--teacher.n_layers=1"]
    changes = {**QUICK, **SEQUENTIAL, "model": "SASRec", "teacher": "S3Rec", "load_col": columns}
    changes |= {"embedding_size": None}
    found = run(tmp_path, *small, **changes)
    assert found["teacher"]["valid"] is not None and found["distilled"]["kd_loss"][-1] > 0
    for store in ("dense", "online"):
        assert run(tmp_path, *small, f"--teacher_store={store}", **changes)["distilled"]["kd_loss"][-1] > 0


def test_epochs_hold_for_pretraining_unless_it_has_its_own(tiny_dataset: TinyData) -> None:
    given = [{}, {"epochs": 3}, {"epochs": 3, "pretrain_epochs": 7}, {"epochs": 900}]
    for keys, wanted in zip(given, (1, 3, 7, 150), strict=True):
        config = build_config(tiny_dataset, "RaCT", **keys)
        assert epochs_of_pretraining(config) == wanted
        assert stages_of(config) == ("actor_pretrain", "critic_pretrain", "finetune")


def test_a_stage_that_ranks_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, tmp_path, "--teacher.train_stage=critic_pretrain", **{**QUICK, "teacher": "RaCT"})
    assert "train_stage=critic_pretrain of RaCT alone" in said and "leave it out" in said


@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("role", ["model", "teacher"])
def test_models_of_packages_that_are_not_there(
    name: str, role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"--{role}={name}" in refusal(capsys, tmp_path, **{role: name})


def test_more_clusters_than_users_are_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    said = refusal(capsys, tmp_path, **{**QUICK, "teacher": "NCL"})
    assert "num_clusters=1000 of NCL" in said and "30 users" in said
    advice = next(word for word in said.split() if word.startswith("--teacher.num_clusters="))
    assert main([*words(tmp_path, **{**QUICK, "teacher": "NCL"}), advice]) == 0


def test_random_is_a_model_without_a_property_file(tmp_path: Path) -> None:
    assert run(tmp_path, **{**QUICK, "teacher": "Random"})["distilled"]["kd_loss"][-1] > 0
