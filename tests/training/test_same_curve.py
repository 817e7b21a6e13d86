"""A training on compiled kernels has the losses, step by step, and the validation curve of one in plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import recbole_kd
from recbole_kd.losses import listwise_of_vectors
from recbole_kd.ops import compiled, compiled_catalogue, compiled_lists, compiled_ranking
from tests.support.helpers import TinyData
from tests.support.recbole_scripts import recbole_parts
from tests.support.runs import run

METHODS: dict[str, dict[str, Any]] = {
    "RCEKD": {},
    "RCEKD paper": {"kd_faithful": "paper", "kd_candidates": "all"},
    "CE": {"kd_k": 5},
    "FullCE": {},
    "CD": {},
    "RRD": {"kd_k": 5, "kd_n_samples": 5, "kd_candidates": 20},
    "DCD": {"kd_k": 5, "kd_candidates": 20},
}


GATES = {compiled_catalogue: "SCORES_FROM", compiled_lists: "SET_NUMBERS_FROM", listwise_of_vectors: "PAIRS_FROM"}
"""The sizes from which kernels are loaded: here from the first number on."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(run(tmp_path_factory.mktemp("teacher"), kd_compare="False")["teacher"]["path"])


def curve(data: TinyData, folder: Path, teacher: str, given: dict[str, Any]) -> tuple[list[list[float]], list[float]]:
    """Losses of every step, and the validation score of every epoch."""
    config, student, train_data, valid_data, _ = recbole_parts(
        data, "MF", folder, epochs=4, learning_rate=0.02, **given
    )
    distiller = recbole_kd.build_distiller(config, student, recbole_kd.load_teacher(teacher, train_data))
    trainer = recbole_kd.KDTrainer(config, student, distiller)
    steps: list[list[float]] = []
    plain = trainer._losses

    def kept(interaction: Any) -> tuple[Tensor, Tensor]:
        losses = plain(interaction)
        steps.append([float(loss.detach()) for loss in losses])
        return losses

    trainer._losses = kept  # type: ignore[method-assign]
    scores: list[float] = []
    trainer.fit(train_data, valid_data, callback_fn=lambda epoch, score: scores.append(score))
    return steps, scores


@pytest.mark.skipif(compiled.kernels() is None, reason="numba is not installed")
@pytest.mark.parametrize("method", METHODS)
def test_losses_and_validation_are_those_of_the_plain_path(
    method: str,
    tiny_dataset: TinyData,
    teacher: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"kd": method.split()[0], **METHODS[method]}
    for module, least in GATES.items():
        monkeypatch.setattr(module, least, 0)
    steps, scores = curve(tiny_dataset, tmp_path, teacher, given)
    for module in (compiled, compiled_catalogue, compiled_lists, compiled_ranking):
        monkeypatch.setattr(module, "kernels", lambda: None)
    plain_steps, plain_scores = curve(tiny_dataset, tmp_path, teacher, given)
    assert len(steps) == len(plain_steps) > 8
    torch.testing.assert_close(torch.tensor(steps), torch.tensor(plain_steps), rtol=1e-6 * len(steps), atol=1e-6)
    assert scores == pytest.approx(plain_scores, abs=1e-9), "the same metrics"
