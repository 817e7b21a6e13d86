"""Evaluation: equal to RecBole's own loop, and both protocols equal to an independent naive computation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.trainer import Trainer

from recbole_kd.data.paper_protocol import follow_paper_protocol
from recbole_kd.data.split_and_loaders import make_loaders
from recbole_kd.data.train_items import train_items
from recbole_kd.errors import ConfigError
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import Case, TinyData, build_case, build_config, write_tiny

METRICS = ["Recall", "NDCG", "Hit", "MRR", "Precision", "MAP"]
EXACT: dict[str, Any] = {"topk": [3, 10], "metrics": METRICS, "valid_metric": "NDCG@10", "metric_decimal_place": 12}


def prepared(trainer: Any, case: Case) -> Any:
    trainer.eval_collector.data_collect(case.loaders.train)
    return trainer


def spread(case: Case) -> None:
    """Scores far apart, so that no two loops can order them differently."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in case.model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("model", ["MF", "BPR", "LightGCN", "NGCF", "SGL"])
def test_equals_recboles_loop(tiny_dataset: TinyData, model: str) -> None:
    case = build_case(tiny_dataset, model, **EXACT)
    spread(case)
    ours = prepared(KDTrainer(case.config, case.model), case)
    theirs = prepared(Trainer(case.config, case.model), case)
    for data in (case.loaders.valid, case.loaders.test):
        assert ours._ranking.ranks_vectors(data)
        expected = theirs.evaluate(data, load_best_model=False)
        assert ours.evaluate(data, load_best_model=False) == pytest.approx(expected, rel=1e-9)
        assert list(ours.evaluate(data, load_best_model=False)) == list(expected)


@pytest.mark.parametrize(
    ("model", "given"), [("NeuMF", {}), ("BPR", {"metrics": ["GAUC"], "valid_metric": "GAUC"}), ("MultiVAE", {})]
)
def test_what_is_no_dot_product_ranking_goes_through_recboles_loop(
    tiny_dataset: TinyData, model: str, given: dict[str, Any]
) -> None:
    case = build_case(tiny_dataset, model, **{**EXACT, **given})
    ours, theirs = prepared(KDTrainer(case.config, case.model), case), prepared(Trainer(case.config, case.model), case)
    assert not ours._ranking.ranks_vectors(case.loaders.test)
    assert ours.evaluate(case.loaders.test, load_best_model=False) == theirs.evaluate(
        case.loaders.test, load_best_model=False
    )


def test_the_best_model_is_loaded(tiny_dataset: TinyData, tmp_path: Any) -> None:
    case = build_case(tiny_dataset, "MF", **EXACT)
    trainer = prepared(KDTrainer(case.config, case.model, checkpoint=tmp_path / "best.pth"), case)
    spread(case)
    trainer._save_checkpoint(0, verbose=False)
    expected = trainer.evaluate(case.loaders.test, load_best_model=False)
    with torch.no_grad():
        case.model.item_embedding.weight.mul_(-1)
    assert trainer.evaluate(case.loaders.test, load_best_model=False) != expected
    assert trainer.evaluate(case.loaders.test) == expected


# -- protocols
# ----------------------------------------------------------------------------------------------------------


def naive(case: Case, part: int, protocol: str, k: int) -> dict[str, float]:
    """Recall and NDCG at k, user by user in plain Python."""
    users = case.splits.dataset.user_num
    seen: list[list[set[int]]] = [[set() for _ in range(users)] for _ in range(3)]
    for phase in range(3):
        feat = case.splits.parts[phase].inter_feat
        for user, item in zip(feat["user_id"].tolist(), feat["item_id"].tolist(), strict=True):
            seen[phase][user].add(item)
    scores = case.model.full_sort_predict({"user_id": torch.arange(users)}).view(users, -1).detach()
    recall, ndcg, counted = 0.0, 0.0, 0
    for user in range(1, users):
        relevant = seen[part][user]
        counted += bool(relevant) or protocol == "paper"
        if not relevant:
            continue
        hidden = seen[0][user] if part == 1 or protocol == "paper" else seen[0][user] | seen[1][user]
        order = sorted(
            (i for i in range(1, scores.shape[1]) if i not in hidden), key=lambda i, u=user: -float(scores[u, i])
        )[:k]  # type: ignore[misc]
        hits = [place for place, item in enumerate(order) if item in relevant]
        recall += len(hits) / len(relevant)
        ideal = sum(1 / math.log2(place + 2) for place in range(min(len(relevant), k)))
        ndcg += sum(1 / math.log2(place + 2) for place in hits) / ideal
    return {f"recall@{k}": recall / counted, f"ndcg@{k}": ndcg / counted}


@pytest.mark.parametrize("protocol", ["recbole", "paper"])
@pytest.mark.parametrize("model", ["MF", "LightGCN", "NeuMF", "MultiVAE"])
def test_both_protocols_equal_a_naive_computation(protocol: str, model: str, tmp_path: Path) -> None:
    data = write_tiny(tmp_path, "tiny")
    with open(tmp_path / "tiny" / "tiny.inter", "a", encoding="utf-8") as file:  # too few to be validated and tested
        file.writelines(f"short{user}\ti{item}\t{item}\n" for user in range(4) for item in range(1 + user % 2))
    split = {"split": {"RS": [0.6, 0.1, 0.3]}, "order": "TO", "group_by": "user", "mode": "full"}
    given = {**EXACT, "metrics": ["Recall", "NDCG"], "eval_protocol": protocol, "eval_args": split, "topk": [5]}
    case = build_case(data, model, **{**given, "valid_metric": "NDCG@5"})
    assert len(case.loaders.valid.uid_list) < len(case.loaders.test.uid_list) < case.splits.dataset.user_num - 1
    spread(case)
    trainer = prepared(KDTrainer(case.config, case.model), case)
    for part, loader in ((1, case.loaders.valid), (2, case.loaders.test)):
        found = trainer.evaluate(loader, load_best_model=False)
        assert found == pytest.approx(naive_by(case, part, protocol), rel=1e-6)


def naive_by(case: Case, part: int, protocol: str) -> dict[str, float]:
    """The naive computation over the model's own predict, whatever kind it is."""
    from recbole_kd.scoring.scorer import Scorer

    scorer, users = Scorer(case.model), torch.arange(case.splits.dataset.user_num)
    with scorer.frozen():
        scores = scorer.full(users)
    stand_in = Case(
        case.config, case.splits, case.loaders, type("Table", (), {"full_sort_predict": lambda self, _: scores})()
    )
    return naive(stand_in, part, protocol, 5)


def test_the_paper_protocol_refuses_loaders_that_hide_validation_items(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "MF", **EXACT)
    config = build_config(tiny_dataset, "MF", **EXACT, eval_protocol="paper")
    trainer = prepared(KDTrainer(config, case.model), case)
    with pytest.raises(ConfigError, match="eval_protocol=paper needs loaders that leave out training items only"):
        trainer.evaluate(case.loaders.test, load_best_model=False)
    follow_paper_protocol(case.loaders.test, train_items(case.loaders.train))
    assert trainer.evaluate(case.loaders.test, load_best_model=False) is not None


def test_the_paper_protocol_refuses_metrics_that_are_no_mean_over_users(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "MF", **{**EXACT, "metrics": ["NDCG", "GAUC"]}, eval_protocol="paper")
    trainer = prepared(KDTrainer(case.config, case.model), case)
    with pytest.raises(ConfigError, match="no mean over all users for GAUC"):
        trainer.evaluate(case.loaders.test, load_best_model=False)


def test_the_paper_protocol_refuses_sampled_evaluation(tiny_dataset: TinyData) -> None:
    sampled = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user", "mode": "uni20"}
    config = build_config(tiny_dataset, "MF", eval_args=sampled, eval_protocol="paper")
    case = build_case(tiny_dataset, "MF")
    with pytest.raises(ConfigError, match="eval_protocol=paper ranks the whole catalogue"):
        make_loaders(config, case.splits)


@pytest.mark.parametrize(("protocol", "epochs"), [("recbole", 6), ("paper", 4)])
def test_only_the_paper_protocol_counts_strict_improvements(
    tiny_dataset: TinyData, protocol: str, epochs: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """The same score every epoch.

    RecBole takes each for an improvement, the paper stops when its patience of three is over.
    """
    case = build_case(tiny_dataset, "MF", **EXACT, eval_protocol=protocol, epochs=6, stopping_step=2)
    trainer = KDTrainer(case.config, case.model, checkpoint=tmp_path / "best.pth")
    monkeypatch.setattr(Trainer, "_valid_epoch", lambda *_, **__: (0.5, {"ndcg@10": 0.5}))
    trainer.fit(case.loaders.train, case.loaders.valid, verbose=False)
    assert len(trainer.epoch_seconds) == epochs
    assert trainer.best_epoch == (5 if protocol == "recbole" else 0)
