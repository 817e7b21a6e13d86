"""Every ranking metric that the checks offer works with every kind of model.

A mode that cannot give one is refused at once.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.evaluator.collector import Collector, DataStruct
from recbole.trainer import Trainer

from recbole_kd.cli.run import main
from recbole_kd.config import optional_packages
from recbole_kd.config.key_rules import RANKING_METRICS
from recbole_kd.scoring.scorer import Scorer
from tests.support.helpers import TinyData, build_case, write_tiny
from tests.support.runs import refusal, results, words

ALL = f"--metrics=[{', '.join(RANKING_METRICS)}]"
SEQUENTIAL = ("--setting=sequential", "--MAX_ITEM_LIST_LENGTH=8")
KINDS = {
    "dot products": ({"model": "MF", "teacher": "LightGCN"}, ()),
    "no dot product": ({"model": "NeuMF", "teacher": "EASE"}, ()),
    "histories": ({"model": "SASRec", "teacher": "HSTU"}, (*SEQUENTIAL, "--hidden_size=8", "--teacher.hidden_size=8")),
    "both": ({"model": "MF", "teacher": "GRU4Rec"}, SEQUENTIAL),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_metrics_are_computed_also_from_the_cache(tmp_path: Path, kind: str) -> None:
    models, more = KINDS[kind]
    small = ("--topk=[5]", "--valid_metric=NDCG@5", "--epochs=1", "--kd=CE", "--kd_k=5")
    given = [
        word
        for word in words(tmp_path, **models)
        if word.split("=")[0] in {"--data_path", "--cache_dir", "--output_dir"}
    ]
    teacher = () if models["teacher"] == "EASE" else ("--teacher.epochs=1",)
    line = [
        *given,
        *(f"--{key}={value}" for key, value in models.items()),
        "--dataset=tiny",
        "--show_progress=False",
        "--state=ERROR",
    ]
    line += ["--load_col={inter: [user_id, item_id, timestamp]}"]
    first, second = (_run([*line, *small, *teacher, *more, ALL], tmp_path) for _ in range(2))
    expected = {name.lower() if name == "GAUC" else f"{name.lower()}@5" for name in RANKING_METRICS}
    for result in (first, second):
        for part in ("teacher", "student", "distilled"):
            assert set(result[part]["test"]) == set(result[part]["valid"]) == expected, part
    assert second["teacher"]["cached"] and second["student"]["cached"]
    assert (
        second["distilled"]["test"] == first["distilled"]["test"]
        and 0 < first["student"]["test"]["itemcoverage@5"] <= 1
    )


def _run(line: list[str], folder: Path) -> dict[str, Any]:
    assert main(line) == 0
    return results(folder)[-1]


def test_the_collector_keeps_counts_and_moves_tensors() -> None:
    collector: Any = Collector.__new__(Collector)
    collector.data_struct = DataStruct()
    collector.data_struct.set("data.num_items", 12)
    collector.data_struct.set("data.count_items", Counter({3: 2}))
    collector.data_struct.set("rec.items", torch.ones(2, 3))
    for _ in range(2):  # the counts of the data stay for the next evaluation, the lists of this one do not
        found = collector.get_data_struct()
        assert found.get("data.num_items") == 12 and found.get("data.count_items") == Counter({3: 2})
        assert "rec.items" not in collector.data_struct
        collector.data_struct.set("rec.items", torch.ones(2, 3))
    found.get("data.count_items").clear()
    assert collector.data_struct.get("data.count_items") == Counter({3: 2})


@pytest.mark.parametrize("mode", ["labeled", "{valid: labeled, test: full}", "{valid: full, test: labeled}"])
@pytest.mark.parametrize("metric", ["NDCG@10", "GAUC"])
def test_labeled_rows_have_no_ranking(tmp_path: Path, capsys: Any, mode: str, metric: str) -> None:
    line = refusal(
        capsys, tmp_path, f"--eval_args.mode={mode}", f"--valid_metric={metric}", f"--metrics=[{metric.split('@')[0]}]"
    )
    assert (
        "eval_args.mode=" in line
        and "labeled rows have no ranking" in line
        and "--metrics=[AUC, MAE, RMSE, LogLoss]" in line
    )


def test_labeled_rows_need_a_label(tmp_path: Path, capsys: Any) -> None:
    line = refusal(capsys, tmp_path, "--eval_args.mode=labeled", "--valid_metric=AUC", "--metrics=[AUC]")
    assert "needs a column 'label' (LABEL_FIELD) and tiny has none" in line


def test_histories_have_no_labels(tmp_path: Path, capsys: Any) -> None:
    data = write_tiny(tmp_path / "data", "tiny")
    file = Path(data.data_path) / "tiny" / "tiny.inter"
    head, *rows = file.read_text().splitlines()
    rated = [f"{row}\t{1 + number % 5}" for number, row in enumerate(rows)]
    file.write_text("\n".join([f"{head}\trating:float", *rated]) + "\n")
    line = refusal(
        capsys, tmp_path, "--setting=sequential", "--eval_args.mode=labeled", "--valid_metric=AUC", "--metrics=[AUC]",
        "--threshold={rating: 3}", load_col="{inter: [user_id, item_id, timestamp, rating]}", model="SASRec",
        teacher="MF",
    )  # fmt: skip
    assert "SASRec, whose rows are histories without labels" in line


def test_a_missing_package_is_named_before_anything_is_read(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optional_packages, "find_spec", lambda name: None)
    assert "pip install wandb" in refusal(capsys, tmp_path, "--log_wandb=True")
    config = {"log_wandb": False, "model": "NCL"}
    with pytest.raises(optional_packages.ConfigError, match="The model NCL needs the package faiss-cpu"):
        optional_packages.check_packages(config)


@pytest.mark.parametrize("name", ["BPR", "NeuMF"])
def test_recboles_own_trainer_computes_them_too(tiny_dataset: TinyData, name: str) -> None:
    case = build_case(
        tiny_dataset, name, metrics=list(RANKING_METRICS), topk=[5], valid_metric="NDCG@5", metric_decimal_place=10
    )
    trainer = Trainer(case.config, case.model)
    trainer.eval_collector.data_collect(case.loaders.train)
    found = trainer.evaluate(case.loaders.test, load_best_model=False)
    assert len(found) == len(RANKING_METRICS)
    users = torch.tensor(sorted({int(user) for user in case.splits.parts[2].inter_feat["user_id"]}))
    seen: list[set[int]] = [set() for _ in range(case.splits.dataset.user_num)]
    for part in case.splits.parts[:2]:
        for user, item in zip(part.inter_feat["user_id"].tolist(), part.inter_feat["item_id"].tolist(), strict=True):
            seen[user].add(item)
    listed: set[int] = set()
    scores = Scorer(case.model).full(users).detach()
    for user, row in zip(users.tolist(), scores, strict=True):
        row[[0, *seen[user]]] = -torch.inf
        listed |= set(row.topk(5).indices.tolist())
    assert found["itemcoverage@5"] == pytest.approx(len(listed) / case.splits.dataset.item_num)
