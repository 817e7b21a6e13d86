"""RankDistil: its formula user by user, and the distribution of its permutations."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from recbole_kd.distiller.rankdistil import RankDistil
from recbole_kd.distiller.registry import check_options
from recbole_kd.distiller.rrd import RRD
from recbole_kd.errors import ConfigError
from tests.support.baselines import loss_of, naive_listwise, random_scores, random_train, started, train_items_of


@pytest.mark.parametrize("scale", [1.0, 10.0, 1e4])
def test_loss_by_hand(scale: float) -> None:
    student, teacher = random_scores(scale=scale)
    distiller, _ = started(
        RankDistil, student, teacher, random_train(), k=5, n_samples=6, permutations=3, temperature=2.0
    )
    for user in range(7):
        top, rest = (distiller.item_sets[name][user + 1] - 1 for name in ("top", "drawn"))
        scores = student[user] / 2.0
        each = [
            naive_listwise(scores[top[order.long()]].tolist(), scores[rest].tolist())
            for order in distiller._orders[user + 1]
        ]
        assert loss_of(distiller, [user + 1, user + 1]) == pytest.approx(2 * sum(each) / 3, rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_permutations_follow_plackett_luce(tau: float) -> None:
    scores = torch.tensor([[1.2, 0.0, 0.7, -9.0]]).repeat(12_500, 1)
    distiller, _ = started(RankDistil, scores, scores, k=3, n_samples=1, permutations=8, tau=tau)
    weights = np.exp(np.array([1.2, 0.7, 0.0]) / tau)
    orders = list(itertools.permutations(range(3)))
    expected = [weights[a] / weights.sum() * weights[b] / (weights[b] + weights[c]) for a, b, c in orders]
    number = {order: at for at, order in enumerate(orders)}
    found = [number[tuple(row)] for row in distiller._orders[1:].reshape(-1, 3).tolist()]
    assert chisquare(np.bincount(found, minlength=6), np.array(expected) * 1e5).pvalue > 1e-3


def test_without_noise_it_is_rrd_on_the_first_k() -> None:
    student, teacher = random_scores()
    distiller, _ = started(RankDistil, student, teacher, k=5, n_samples=6, permutations=2, tau=0)
    other, _ = started(RRD, student, teacher, k=5, n_samples=6, candidates=5, sampling="none")
    other.item_sets = {"interesting": distiller.item_sets["top"], "uninteresting": distiller.item_sets["drawn"]}
    assert loss_of(distiller, [1, 2, 7]) == pytest.approx(loss_of(other, [1, 2, 7]), rel=1e-6)


def test_drawn_items_are_distinct_and_neither_training_items_nor_top() -> None:
    train = random_train(share=0.3)
    distiller, _ = started(RankDistil, *random_scores(), train, k=4, n_samples=26)
    for query in range(1, 8):
        left = set(range(1, 31)) - train_items_of(train, query)
        top = set(distiller.item_sets["top"][query].tolist())
        drawn = [item for item in distiller.item_sets["drawn"][query].tolist() if item]
        assert len(top) == 4 and top <= left and sorted(drawn) == sorted(left - top)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"k": 0}, "kd_k=0"), ({"k": 41}, "kd_k=41"), ({"n_samples": 0}, "kd_n_samples=0"),
    ({"permutations": 0}, "kd_permutations=0"),
     ({"tau": -1.0}, "kd_tau=-1.0"), ({"temperature": 0.0}, "kd_temperature=0.0")],
)  # fmt: skip
def test_options_out_of_range_name_their_key(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(RankDistil, {"k": 5, "n_samples": 5, **given}, 30, 40)
