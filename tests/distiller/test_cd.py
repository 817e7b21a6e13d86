"""CD: the published loss on given samples, and samples from the student's ranking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from recbole_kd.distiller.cd import CD
from recbole_kd.distiller.registry import check_options
from recbole_kd.errors import ConfigError
from recbole_kd.ops.ragged import Ragged
from tests.support.baselines import (
    ids,
    loss_of_case,
    of_case,
    random_scores,
    random_train,
    references,
    started,
    train_items_of,
)


@pytest.mark.parametrize("case", references("cd"), ids=["random-1", "random-2", "random-3", "extreme"])
def test_equals_the_published_class_on_its_samples(case: dict[str, Any]) -> None:
    distiller, _ = of_case(CD, case)
    for query in range(1, 7):  # its samples are among those that could be ours
        ranked = distiller.student_scorer.top_k(
            torch.tensor([query]), case["options"]["candidates"], distiller.train_items
        )[0][0]
        assert set(ids(case["drawn"])[query].tolist()) <= set(ranked.tolist())
    distiller.item_sets = {"drawn": ids(case["drawn"])}
    assert loss_of_case(distiller, case) == pytest.approx(case["loss"], rel=1e-5)


def test_samples_are_the_better_of_two_places_of_the_students_ranking() -> None:
    """20,000 users with equal scores draw 5 each: 1e5 draws."""
    scores = torch.tensor([[0.3, 0.9, -0.5, 0.1, 0.7, 0.2]]).repeat(20_000, 1)
    users = np.arange(1, 20_001)
    train = Ragged.from_pairs(users, np.full(20_000, 5), 20_001)  # item 5 (0.7) is a training item
    counts = np.zeros(7)
    distiller, _ = started(CD, scores, scores, train, n_samples=1, candidates=4, tau=0.5)
    for epoch in range(5):
        distiller.begin_epoch(epoch)
        counts += np.bincount(distiller.item_sets["drawn"][1:].reshape(-1).numpy(), minlength=7)
    places = np.exp(-np.arange(4) / (4 * 0.5))
    tail = np.append((places / places.sum())[::-1].cumsum()[::-1], 0)
    assert counts[[0, 3, 5]].sum() == 0  # pad, the fifth best, the training item
    assert chisquare(counts[[2, 1, 6, 4]], (tail[:-1] ** 2 - tail[1:] ** 2) * 1e5).pvalue > 1e-3


@pytest.mark.parametrize("n_samples", [2, 12])
def test_samples_are_distinct_and_in_the_list(n_samples: int) -> None:
    student, teacher = random_scores()
    train = random_train()
    for guide, scores in (("student", student), ("teacher", teacher)):
        distiller, _ = started(CD, student, teacher, train, n_samples=n_samples, candidates=15, guide=guide)
        for query in range(1, 8):
            mine = train_items_of(train, query)
            ranked = [i + 1 for i in scores[query - 1].argsort(descending=True).tolist() if i + 1 not in mine][:15]
            drawn = distiller.item_sets["drawn"][query].tolist()
            assert len(set(drawn)) == n_samples and set(drawn) <= set(ranked)


def test_a_teachers_sample_is_drawn_once() -> None:
    for guide, kept in (("teacher", True), ("student", False)):
        distiller, _ = started(CD, *random_scores(), n_samples=5, candidates=20, guide=guide)
        before = distiller.item_sets["drawn"]
        distiller.begin_epoch(1)
        assert torch.equal(before, distiller.item_sets["drawn"]) is kept


def test_a_list_longer_than_the_catalogue_is_cut_to_it() -> None:
    distiller, _ = started(CD, *random_scores(), n_samples=2)
    assert distiller.candidates == 30 and distiller.tau == 600


@pytest.mark.parametrize(
    ("given", "words"),
    [({"n_samples": 0}, "kd_n_samples=0"), ({"n_samples": 11, "candidates": 10}, "kd_n_samples=11"),
    ({"n_samples": 41}, "kd_n_samples=41"),
     ({"candidates": 0}, "kd_candidates=0"), ({"tau": 0.0}, "kd_tau=0.0"), ({"t1": 0.0}, "kd_t1=0.0")],
)  # fmt: skip
def test_options_out_of_range_name_their_key(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(CD, given, 30, 40)
