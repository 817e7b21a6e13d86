"""RRD: the published loss on given samples, and what samples are drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from recbole_kd.distiller import rrd as module
from recbole_kd.distiller.registry import check_options
from recbole_kd.distiller.rrd import RRD
from recbole_kd.errors import ConfigError
from tests.support.baselines import (
    ids,
    loss_of,
    loss_of_case,
    naive_listwise,
    of_case,
    random_scores,
    random_train,
    references,
    started,
    train_items_of,
)

CASES = references("rrd")
NAMES = ["random-1", "random-2", "by-score", "extreme"]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_equals_the_published_class_on_its_samples(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    plain = module.sample_without_replacement

    def spy(weights: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
        seen.append(weights.softmax(1)[1:])
        return plain(weights, n, generator)

    monkeypatch.setattr(module, "sample_without_replacement", spy)
    distiller, _ = of_case(RRD, case)
    weights = torch.tensor(case["weights"])
    torch.testing.assert_close(seen[0], weights / weights.sum(1, keepdim=True), rtol=1e-4, atol=1e-9)
    assert torch.equal(distiller._listed[1:], ids(case["listed"])[1:])
    free = torch.tensor(case["free"])
    assert torch.equal(distiller._outside.room[1:], free.sum(1))
    assert (free.gather(1, distiller.item_sets["uninteresting"][1:] - 1) == 1).all()
    distiller.item_sets = {"interesting": ids(case["interesting"]), "uninteresting": ids(case["uninteresting"])}
    assert loss_of_case(distiller, case) == pytest.approx(case["loss"], rel=1e-5)


def test_each_distinct_user_counts_once_and_a_mean_is_over_rows() -> None:
    student, teacher = random_scores()
    distiller, _ = started(RRD, student, teacher, random_train(), k=4, n_samples=5, candidates=8)
    expected = 0.0
    for query in (1, 4):
        sets = [distiller.item_sets[name][query] - 1 for name in ("interesting", "uninteresting")]
        expected += naive_listwise(*(student[query - 1][items].tolist() for items in sets))
    assert loss_of(distiller, [1, 1, 1, 4]) == pytest.approx(expected, rel=1e-5)
    distiller.reduction = "mean"
    assert loss_of(distiller, [1, 1, 1, 4]) == pytest.approx(expected / 4, rel=1e-5)


def test_interesting_items_are_in_the_teachers_order() -> None:
    student, teacher = random_scores()
    distiller, _ = started(RRD, student, teacher, k=6, n_samples=5, candidates=12)
    at_interesting = torch.cat([torch.zeros(7, 1), teacher], 1).gather(1, distiller.item_sets["interesting"][1:])
    assert (at_interesting.diff(dim=1) < 0).all()
    unsorted, _ = started(RRD, student, teacher, k=6, n_samples=5, candidates=12, sort=False)
    assert not torch.equal(unsorted.item_sets["interesting"], distiller.item_sets["interesting"])
    assert torch.equal(
        unsorted.item_sets["interesting"].sort(1).values, distiller.item_sets["interesting"].sort(1).values
    )


def test_none_takes_the_first_k() -> None:
    student, teacher = random_scores()
    distiller, _ = started(RRD, student, teacher, k=6, n_samples=5, candidates=12, sampling="none")
    assert torch.equal(distiller.item_sets["interesting"][1:], teacher.topk(6).indices + 1)


def test_the_first_interesting_place_follows_its_distribution() -> None:
    scores = torch.arange(8.0).flip(0).repeat(20_000, 1)
    distiller, _ = started(RRD, scores, scores, k=1, n_samples=3, candidates=5, tau=2.0)
    counts, outside = np.zeros(9), np.zeros(9)
    for epoch in range(5):
        distiller.begin_epoch(epoch)
        counts += np.bincount(distiller.item_sets["interesting"][1:].reshape(-1).numpy(), minlength=9)
        outside += np.bincount(distiller.item_sets["uninteresting"][1:, :1].reshape(-1).numpy(), minlength=9)
    expected = np.exp(-np.arange(1, 6) / 2.0)
    assert counts[6:].sum() == 0 and chisquare(counts[1:6], expected / expected.sum() * 1e5).pvalue > 1e-3
    assert outside[:6].sum() == 0 and chisquare(outside[6:]).pvalue > 1e-3


def test_uninteresting_items_are_distinct_and_neither_training_items_nor_listed() -> None:
    train = random_train(share=0.3)
    distiller, _ = started(RRD, *random_scores(), train, k=3, n_samples=25, candidates=6)
    for query in range(1, 8):
        allowed = set(range(1, 31)) - train_items_of(train, query) - set(distiller._listed[query].tolist())
        drawn = [item for item in distiller.item_sets["uninteresting"][query].tolist() if item]
        assert sorted(drawn) == sorted(allowed)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"k": 0}, "kd_k=0"), ({"k": 11, "candidates": 10}, "kd_k=11"), ({"candidates": 41}, "kd_candidates=41"),
     ({"n_samples": 41}, "kd_n_samples=41"), ({"tau": 0.0}, "kd_tau=0.0")],
)  # fmt: skip
def test_options_out_of_range_name_their_key(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(RRD, {"k": 5, "n_samples": 5, "candidates": 10, **given}, 30, 40)
