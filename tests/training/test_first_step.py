"""A model that cannot be trained is refused before any other model is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_kd.cli.run import main
from tests.support.runs import refusal, run, words

QUICK: dict[str, str | None] = {
    "kd": "CD",
    "kd_k": None,
    "kd_n_samples": None,
    "kd_candidates": None,
    "epochs": "1",
    "teacher.epochs": "1",
}


@pytest.mark.parametrize("role", ["model", "teacher"])
def test_mixed_precision_of_a_model_that_recbole_cannot_train_so(
    role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {**QUICK, "teacher": "MF", role: "NGCF"}
    keys = ["--enable_amp=True", "--teacher.enable_amp=True"]
    said = refusal(capsys, tmp_path, *keys, **changes)
    prefix = "--teacher." if role == "teacher" else "--"
    assert "enable_amp=True is not possible with NGCF" in said and f"set {prefix}enable_amp=False" in said
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_mixed_precision_of_other_models(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        "--enable_amp=True",
        "--teacher.enable_amp=True",
        **{**QUICK, "model": "NeuMF", "embedding_size": None},
    )
    assert found["distilled"]["kd_loss"][-1] > 0


def test_a_loss_that_cannot_be_taken_is_known_before_the_teacher_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SASRecCPR ranks 100 items again; the catalogue has 40."""
    changes = {**QUICK, "model": "SASRecCPR", "setting": "sequential", "embedding_size": None}
    assert main(words(tmp_path, **changes)) == 2
    assert "SASRecCPR cannot compute its loss" in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
