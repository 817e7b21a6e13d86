"""DCD: the published loss and weights, and the three places where the default differs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from recbole_kd.distiller import dcd as module
from recbole_kd.distiller.dcd import DCD, LEAST_WEIGHT
from recbole_kd.distiller.registry import check_options
from recbole_kd.errors import ConfigError
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

PUBLISHED = {"sort": False, "mask_student": False, "disjoint": False}


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The weights of every draw, as they come, pad row left out."""
    captured: list[torch.Tensor] = []
    plain = module.sample_without_replacement

    def spy(logs: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
        captured.append(logs.exp()[1:])
        return plain(logs, n, generator)

    monkeypatch.setattr(module, "sample_without_replacement", spy)
    return captured


@pytest.mark.parametrize("case", references("dcd"), ids=["random-1", "random-2", "ce", "extreme"])
def test_equals_the_published_class(case: dict[str, Any], weights: list[torch.Tensor]) -> None:
    distiller, _ = of_case(DCD, case, **PUBLISHED)
    assert torch.equal(distiller._listed[1:], ids(case["listed"])[1:])
    for found, name in zip(weights, ("under_weights", "over_weights"), strict=True):
        torch.testing.assert_close(found, torch.tensor(case[name]), rtol=1e-5, atol=1e-9)
    distiller.item_sets = {"under": ids(case["under"]), "over": ids(case["over"])}
    assert loss_of_case(distiller, case) == pytest.approx(case["loss"], rel=1e-5)


@pytest.mark.parametrize("depth", [None, 9])
def test_weights_by_hand(depth: int | None, weights: list[torch.Tensor]) -> None:
    """Ranks among the items that are left, for both models; further ones than T can tell apart are not looked for."""
    student, teacher = random_scores(n_items=80)
    train = random_train(n_items=80)
    tau = 10.0 if depth is None else 0.3
    distiller, _ = started(DCD, student, teacher, train, k=3, candidates=6, tau=tau)
    assert distiller.depth == (80 if depth is None else depth)
    for user in range(7):
        left = [i for i in range(80) if i + 1 not in train_items_of(train, user + 1)]
        wanted, own = (sorted(left, key=lambda i, s=scores: -float(s[user, i])) for scores in (teacher, student))
        assert (distiller._listed[user + 1] - 1).tolist() == wanted[:6]
        off = [own.index(item) - place for place, item in enumerate(wanted[:6])]
        assert weights[0][user].tolist() == pytest.approx(
            [max(math.tanh(d / tau), LEAST_WEIGHT) for d in off], rel=1e-5
        )
        over = [max(math.tanh(-d / tau), LEAST_WEIGHT) for d in off]
        assert sorted(w for w in weights[1][user].tolist() if w) == pytest.approx(
            sorted(
                w
                for w, item in zip(over, wanted, strict=False)
                if item + 1 not in distiller.item_sets["under"][user + 1]
            ),
            rel=1e-5,
        )


def test_samples_share_nothing_and_keep_the_teachers_order() -> None:
    student, teacher = random_scores()
    distiller, _ = started(DCD, student, teacher, k=5, candidates=10)
    at = {
        name: torch.cat([torch.zeros(7, 1), teacher], 1).gather(1, items[1:])
        for name, items in distiller.item_sets.items()
    }
    assert all((scores.diff(dim=1) < 0).all() for scores in at.values())
    both = torch.cat(list(distiller.item_sets.values()), 1)
    assert torch.equal(both[1:].sort(1).values, distiller._listed[1:].sort(1).values)


def test_only_the_cross_entropy_asks_the_teacher() -> None:
    assert not started(DCD, *random_scores(), k=3, candidates=6)[0].needs_set_scores
    assert started(DCD, *random_scores(), k=3, candidates=6, loss="ce")[0].needs_set_scores


@pytest.mark.parametrize(
    ("given", "words"),
    [({"k": 0}, "kd_k=0"), ({"k": 6}, "kd_k=6.*kd_disjoint"), ({"k": 11, "disjoint": False}, "kd_k=11"),
    ({"candidates": 41}, "kd_candidates=41"),
     ({"tau": 0.0}, "kd_tau=0.0"), ({"temperature": 0.0}, "kd_temperature=0.0")],
)  # fmt: skip
def test_options_out_of_range_name_their_key(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(DCD, {"k": 5, "candidates": 10, **given}, 30, 40)
