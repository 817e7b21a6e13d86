"""DE-RRD: the sum of its two parts, and the ranking part by its formula."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from recbole_kd.cli.run import main
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.de import DE
from recbole_kd.distiller.derrd import DERRD
from recbole_kd.distiller.registry import check_options
from recbole_kd.errors import ConfigError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.training import resume_state as resume
from recbole_kd.training.trainer import KDTrainer
from tests.support.embedding_stubs import VectorScorer, batch_of_rows, random_pair
from tests.support.runs import run, words
from tests.support.stubs import batch_for, no_train_items

SMALL = {"k": 4, "n_samples": 5, "candidates": 8, "n_experts": 2}


def begun(
    n_users: int = 12, n_items: int = 20, seed: int = 0, train: Ragged | None = None, **options: float
) -> tuple[DERRD, VectorScorer]:
    student, teacher = random_pair(n_users, n_items)
    distiller = DERRD(student, teacher, seed=seed, **{**SMALL, **options})  # type: ignore[arg-type]
    distiller.begin_training(no_train_items(student.n_queries) if train is None else train)
    distiller.begin_epoch(0)
    return distiller, student


def full_batch(distiller: DERRD, users: list[int], positives: list[int], negatives: list[int]) -> DistillBatch:
    own = batch_of_rows(users, positives, negatives)
    asked = batch_for(distiller, users)
    return DistillBatch(asked.queries, asked.weights, asked.sets, own.positives, own.negatives)


def naive_ranking(scores: torch.Tensor, interesting: list[int], others: list[int]) -> float:
    """L_RRD of one user, item after item."""
    total = 0.0
    for place, item in enumerate(interesting):
        below = [float(scores[i]) for i in interesting[place:] + others]
        total += float(torch.tensor(below, dtype=torch.float64).logsumexp(0)) - float(scores[item])
    return total


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_loss_is_the_weighted_sum_of_its_parts(reduction: str) -> None:
    distiller, student = begun(lambda_de=0.3, lambda_rrd=2.0)
    distiller.reduction = reduction
    users, positives, negatives = [1, 4, 4, 9], [1, 2, 3, 4], [5, 6, 7, 8]
    batch = full_batch(distiller, users, positives, negatives)
    state = distiller.generator.get_state()
    found = float(distiller(batch).detach())
    distiller.generator.set_state(state)
    experts = float(DE.forward(distiller, batch).detach())
    scores = (student.users @ student.items.T).detach()
    sets = {name: ids.tolist() for name, ids in distiller.item_sets.items()}
    ranking = sum(naive_ranking(scores[u], sets["interesting"][u], sets["uninteresting"][u]) for u in (1, 4, 9))
    assert found == pytest.approx(0.3 * experts + 2.0 * ranking / (1 if reduction == "sum" else 4), rel=1e-5)


def test_the_hand_worked_ranking_loss() -> None:
    """Scores (1, 0) above V = (0.5): 1.654347."""
    assert naive_ranking(torch.tensor([1.0, 0.0, 0.5]), [0, 1], [2]) == pytest.approx(1.654347, abs=1e-6)


def test_sets_are_ordered_by_the_teacher_disjoint_and_without_training_items() -> None:
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((12, 20)) < 0.3)
    train = Ragged.from_pairs(users + 1, items + 1, 13)
    distiller, _ = begun(train=train)
    queries = torch.arange(13)
    listed = distiller.teacher_scores.top_k(queries, 8, train)[0]
    for user in range(1, 13):
        interesting, others = (distiller.item_sets[name][user].tolist() for name in ("interesting", "uninteresting"))
        own = set(train.items[train.starts[user] : train.starts[user + 1]].tolist())
        order = listed[user].tolist()
        places = [order.index(item) for item in interesting]
        assert places == sorted(places) and len(set(places)) == 4
        drawn = [item for item in others if item]
        assert len(drawn) == len(set(drawn)) == min(5, 20 - 8 - len(own)) and not set(drawn) & (own | set(order))


def test_draws_follow_their_distributions() -> None:
    n_users = 20000
    distiller, _ = begun(n_users, 12, k=1, n_samples=2, candidates=5, tau=2.0)
    weights = np.exp(-np.arange(5) / 2.0)
    queries = torch.arange(n_users + 1)
    listed = distiller.teacher_scores.top_k(queries, 12)[0]
    above, below = np.zeros(5), np.zeros(12)
    for epoch in range(5):
        distiller.begin_epoch(epoch)
        for counts, name in ((above, "interesting"), (below, "uninteresting")):
            ids = distiller.item_sets[name][1:]
            places = (listed[1:].unsqueeze(1) == ids.unsqueeze(2)).int().argmax(2).flatten()
            counts += np.bincount(places.numpy(), minlength=len(counts))
    assert stats.chisquare(above, weights / weights.sum() * above.sum()).pvalue > 1e-3
    assert not below[:5].any() and stats.chisquare(below[5:]).pvalue > 1e-3


def test_short_lists_and_huge_scores_stay_finite() -> None:
    users, items = np.nonzero(np.ones((12, 20)) * (np.arange(20) < 18) * (np.arange(12)[:, None] != 3))
    distiller, student = begun(train=Ragged.from_pairs(users + 1, items + 1, 13))
    with torch.no_grad():
        student.users.mul_(100)
        student.items.mul_(100)
    loss = distiller(full_batch(distiller, list(range(1, 13)), [19] * 12, [20] * 12))
    loss.backward()
    assert bool(loss.isfinite()) and bool(student.users.grad.isfinite().all())  # type: ignore[union-attr]
    assert bool((distiller.item_sets["interesting"][1] == 0).any())


def test_both_generators_are_kept_for_resuming() -> None:
    distiller, _ = begun(seed=3)
    state = {name: value.clone() for name, value in distiller.sampling_state().items()}
    distiller.begin_epoch(1)
    first = {name: ids.clone() for name, ids in distiller.item_sets.items()}
    noise = distiller.noise("users", torch.arange(3))
    distiller.restore_sampling(state)
    distiller.begin_epoch(1)
    assert all(torch.equal(first[name], ids) for name, ids in distiller.item_sets.items())
    assert torch.equal(noise, distiller.noise("users", torch.arange(3)))


def test_no_experts_are_evaluated_at_weight_zero() -> None:
    distiller, _ = begun(lambda_de=0.0)
    distiller(full_batch(distiller, [1, 2], [3, 4], [5, 6])).backward()
    assert all(p.grad is None for p in distiller.user_experts.parameters())


def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks, their optimiser's state and both generators are picked up."""
    monkeypatch.setattr(resume, "SHARE_OF_TIME", 1e9)
    changes: dict[str, str | None] = {
        "kd": "DERRD",
        "kd_compare": "False",
        "epochs": "4",
        "kd_lambda_de": "1.0",
        "kd_lambda_rrd": "1.0",
    }
    whole = run(tmp_path / "whole", **changes)
    plain = KDTrainer._valid_epoch

    def cut(self: KDTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.distiller is not None and self._epoch == 2:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    (tmp_path / "broken").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(KDTrainer, "_valid_epoch", cut)
        with pytest.raises(KeyboardInterrupt):
            main(words(tmp_path / "broken", **changes))
    resumed = run(tmp_path / "broken", "--resume=True", **changes)
    assert "from epoch 2" in (resumed["folder"] / "run.log").read_text()
    assert resumed["distilled"]["kd_loss"] == whole["distilled"]["kd_loss"] and len(whole["distilled"]["kd_loss"]) == 4
    assert resumed["distilled"]["test"] == whole["distilled"]["test"]


OPTIONS = {
    "lambda_de": 0.1, "lambda_rrd": 0.1, "k": 4, "n_samples": 5, "candidates": 8, "tau": 10.0,
    "n_experts": 5, "end_temperature": 1e-10, "anneal": 1e10, "max_epoch": 1000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [("lambda_de", -1.0), ("lambda_rrd", math.inf), ("k", 9), ("candidates", 21), ("n_samples", 0), ("tau", 0.0)],
)
def test_options_out_of_range_are_refused_by_name(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"kd_{key}={value}"):
        check_options(DERRD, OPTIONS | {key: value}, 30, 20)
