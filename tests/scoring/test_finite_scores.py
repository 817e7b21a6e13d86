"""Scores that are not finite end a training at validation, test and export, and name the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_kd.errors import TrainingError
from recbole_kd.scoring.finite_scores import check_products
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.export import export_teacher
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import SEQUENTIAL, TinyData, build_case, scorer_of
from tests.support.runs import refusal

BAD = {"inf": torch.inf, "nan": torch.nan, "a product that overflows": 1e30}
MODELS: dict[str, dict[str, Any]] = {
    "MF": {}, "LightGCN": {}, "NeuMF": {}, "HSTU": SEQUENTIAL, "SASRec": SEQUENTIAL,
    "BERT4Rec": {**SEQUENTIAL, "n_heads": 2},
}  # fmt: skip


def spoil(model: Any, value: float) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(value)


@pytest.mark.parametrize("mode", ["full", "uni5"])
@pytest.mark.parametrize("name", MODELS)
def test_an_evaluation_refuses_them(tiny_dataset: TinyData, name: str, mode: str) -> None:
    given = dict(MODELS[name])
    order = given.pop("eval_args", {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user"})
    case = build_case(tiny_dataset, name, **given, eval_args={**order, "mode": mode})
    trainer = KDTrainer(case.config, case.model)
    trainer.eval_collector.data_collect(case.loaders.train)
    for data in (case.loaders.valid, case.loaders.test):
        assert trainer.evaluate(data, load_best_model=False)
    spoil(case.model, torch.nan)
    for data in (case.loaders.valid, case.loaders.test):
        with pytest.raises(TrainingError, match=f"The scores of {name} are inf or nan.* lower its learning_rate"):
            trainer.evaluate(data, load_best_model=False)


@pytest.mark.parametrize("kind", BAD)
def test_dot_products_are_refused_as_the_products_are(kind: str) -> None:
    queries, items = torch.ones(5, 3), torch.ones(7, 3)
    queries[2], items[4] = BAD[kind], BAD[kind]
    with pytest.raises(TrainingError, match="The scores of MF"):
        check_products(queries, items, "MF")


def test_large_scores_that_are_finite_pass() -> None:
    large = torch.zeros(4, 2)
    large[0, 0], large[1, 1] = 1e30, 1e30
    check_products(large[:1], large[1:], "MF")  # the bound says overflow, the products are 0
    check_products(torch.full((3, 4), 1e15), torch.full((5, 4), -1e15), "MF")
    check_products(torch.empty(0, 4), large, "MF")


@pytest.mark.parametrize(
    ("name", "store"), [("MF", "factors"), ("MF", "dense"), ("MF", "online"), ("NeuMF", "dense"), ("SASRec", "factors")]
)
def test_an_export_refuses_them(tiny_dataset: TinyData, tmp_path: Path, name: str, store: str) -> None:
    case = build_case(tiny_dataset, name, **(SEQUENTIAL if name == "SASRec" else {}))
    scorer = scorer_of(case) if name == "SASRec" else Scorer(case.model)
    spoil(case.model, torch.nan)
    with pytest.raises(TrainingError, match=f"The scores of {name} are inf or nan, they cannot be exported"):
        export_teacher(scorer, tmp_path / "teacher", {"model": name}, store)
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize("whose", ["", "teacher."])
def test_a_run_ends_and_keeps_nothing(tmp_path: Path, capsys: Any, whose: str) -> None:
    """One step of one epoch: the loss is finite, the weights after it are not."""
    one_step = {"epochs": "1", "train_batch_size": "100000"}
    keys = {**one_step, **{f"teacher.{key}": value for key, value in one_step.items()}, f"{whose}learning_rate": "1e30"}
    line = refusal(
        capsys,
        tmp_path,
        teacher="MF",
        kd="CE",
        kd_compare="False",
        state="ERROR",
        kd_n_samples=None,
        kd_candidates=None,
        **keys,
    )
    assert "The scores of MF are inf or nan" in line
    assert not list((tmp_path / "saved").glob("*/result.json")) and not list((tmp_path / "saved").glob("*/*.pth"))
    kept = [path for path in (tmp_path / "cache").glob("*/*") if path.is_dir()]
    assert sorted(path.parent.name for path in kept) == ([] if whose else ["teacher", "trained"])
