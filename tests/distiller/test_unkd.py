"""UnKD: the published loss, groups and lists, and groups in which a user has nothing left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_kd.distiller import unkd as module
from recbole_kd.distiller.popularity_groups import group_sizes, popularity_groups
from recbole_kd.distiller.registry import check_options
from recbole_kd.distiller.unkd import UnKD
from recbole_kd.errors import ConfigError
from recbole_kd.ops.ragged import Ragged
from tests.support.baselines import (
    ids,
    loss_of,
    loss_of_case,
    of_case,
    random_scores,
    random_train,
    references,
    started,
    train_of_pairs,
)

CASES = references("unkd")
NAMES = ["two-pairs", "rounded-up", "by-popularity", "extreme"]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_groups_and_shares_equal_the_published_ones(case: dict[str, Any]) -> None:
    train = train_of_pairs(case["train"], 6)
    popularity = torch.bincount(train.items, minlength=61)
    groups = popularity_groups(popularity, case["options"]["groups"])
    # equally popular items are in another order there: compare what can be compared
    assert [popularity[group].tolist() for group in groups] == [
        popularity[torch.tensor(group) + 1].tolist() for group in case["groups"]
    ]
    assert sum(
        group_sizes([popularity[group] for group in groups], case["options"]["n_samples"], case["options"]["lamda"])
    ) == len(case["better"][0])


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_equals_the_published_class_on_its_samples(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "popularity_groups", lambda *_: [torch.tensor(group) + 1 for group in case["groups"]])
    distiller, _ = of_case(UnKD, case)
    assert distiller._sizes == pytest.approx(np.array(case["ratio"]) * case["options"]["n_samples"], abs=1)
    for user in range(6):
        for group, ranked in enumerate(case["ranked"][user]):
            length = int(distiller._lengths[group][user + 1])
            assert (distiller._lists[group][user + 1, :length] - 1).tolist() == ranked
    for query in range(1, 7):  # each pair in the teacher's order, within one group
        for better, worse in zip(
            *(distiller.item_sets[name][query].tolist() for name in ("better", "worse")), strict=True
        ):
            ranked = next(r for r in case["ranked"][query - 1] if better - 1 in r)
            assert ranked.index(better - 1) < ranked.index(worse - 1)
    distiller.item_sets = {name: ids(case[name]) for name in ("better", "worse")}
    assert loss_of_case(distiller, case) == pytest.approx(case["loss"], rel=1e-5)


def greedy_groups(counts: list[int], n_groups: int) -> list[list[int]]:
    """The published cut, item by item, as sizes: counts are in descending order."""
    average, groups, current, total = sum(counts) / n_groups, [], [], 0
    for count in counts:
        current.append(count)
        total += count
        if total > average:
            if len(current) == 1:
                groups.append(current)
                current, total = [], 0
            else:
                groups.append(current[:-1])
                current, total = [count], count
    if current:
        if total > average / 2 or not groups:
            groups.append(current)
        else:
            groups[-1] = groups[-1] + current
    return groups


@settings(max_examples=200, deadline=None)
@given(counts=st.lists(st.integers(0, 20), min_size=1, max_size=25), n_groups=st.integers(1, 6))
def test_the_cut_equals_the_greedy_one(counts: list[int], n_groups: int) -> None:
    popularity = torch.tensor(counts)
    found = [popularity[group].tolist() for group in popularity_groups(popularity, n_groups)]
    assert found == greedy_groups([c for c in sorted(counts, reverse=True) if c], n_groups)


def test_shares_of_groups() -> None:
    groups = [torch.tensor([9, 9]), torch.tensor([1] * 18)]
    assert group_sizes(groups, 30, 0.0) == [15, 15] and group_sizes(groups, 30, 1.0) == [3, 27]
    assert group_sizes([torch.tensor([2])] * 4, 30, 0.0) == [8, 8, 8, 8]  # 7.5 each, rounded to even
    assert group_sizes([torch.tensor([2])] * 3, 4, 0.0) == [2, 1, 1]  # what is missing goes to the first
    assert group_sizes([], 4, 0.0) == []


def test_a_group_without_two_candidates_has_no_pair_for_that_user() -> None:
    users, items = np.nonzero(np.ones((7, 10)))
    keep = ~((users == 0) & (items == 9)) & ~((users == 1) & (items > 7))
    train = Ragged.from_pairs(users[keep] + 1, items[keep] + 1, 8)
    student, teacher = random_scores(n_items=10)
    distiller, _ = started(UnKD, student, teacher, train, groups=1, n_samples=4)
    sets = {name: distiller.item_sets[name] for name in ("better", "worse")}
    assert sets["better"][[1, 3]].sum() == sets["worse"][[1, 3]].sum() == 0
    first, second = (9, 10) if teacher[1, 8] > teacher[1, 9] else (10, 9)
    assert sets["better"][2].tolist() == [first] * 4 and sets["worse"][2].tolist() == [second] * 4
    expected = float(torch.nn.functional.softplus(student[1, second - 1] - student[1, first - 1]))
    assert loss_of(distiller, [1, 2, 3]) == pytest.approx(expected, rel=1e-5)


def test_lists_are_as_long_as_draws_can_go() -> None:
    student, teacher = random_scores(n_items=100)
    distiller, _ = started(UnKD, student, teacher, random_train(n_items=100), groups=1, n_samples=50, tau=2.0)
    assert distiller._lists[0].shape[1] == 35 and int(distiller._lengths[0][0]) > 35
    assert (distiller.item_sets["worse"] > 0).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [({"groups": 0}, "kd_groups=0"), ({"groups": 41}, "kd_groups=41"), ({"n_samples": 0}, "kd_n_samples=0"),
     ({"candidates": 1}, "kd_candidates=1"), ({"lamda": -1.0}, "kd_lamda=-1.0"), ({"tau": 0.0}, "kd_tau=0.0"),
     ({"tau": 0.1}, "kd_tau=0.1")],
)  # fmt: skip
def test_options_out_of_range_name_their_key(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(UnKD, given, 30, 40)
