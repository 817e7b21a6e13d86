"""Weights of a list's items by rank, confidence and agreement: by hand in each method, and what refuses them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_kd.distiller.registry import check_options, distiller_class
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.losses.list_weights import list_weights, weights_at
from recbole_kd.losses.ranking import listwise_loss
from recbole_kd.teacher.stores.lists import ListScores
from recbole_kd.teacher.stores.remapped import MappedScores
from tests.support.stubs import TableScorer, batch_for, dense, no_train_items

ROWS = [[], [(2, 3.0, 0.8), (4, 2.0, 0.0), (1, 1.0, 0.2)], [(5, 1.0, 0.5)]]
STUDENT = torch.tensor([[0.0] * 6, [0.0, 0.3, 0.9, 0.8, -0.5, 0.1], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]])
"""Query 1 has 2, 3, 1 among its first three, so that 2 and 1 are agreed on."""


def teacher() -> ListScores:
    starts = torch.tensor([0, *(len(row) for row in ROWS)]).cumsum(0)
    items, scores, sure = (torch.tensor([entry[n] for row in ROWS for entry in row]) for n in range(3))
    return ListScores(starts, items, scores, 6, {"model": "Lists"}, sure)


def distiller_of(name: str, asked: Any, student: Tensor = STUDENT, **options: Any) -> Any:
    distiller = distiller_class(name)(TableScorer(student), asked, **options)
    distiller.begin_training(no_train_items(3))
    distiller.begin_epoch(0)
    return distiller


def loss_of(distiller: Any) -> float:
    return float(distiller(batch_for(distiller, [1])).detach())


def pointwise(weights: Sequence[float], items: Sequence[int]) -> float:
    """RD's loss of query 1."""
    scores = STUDENT[1, list(items)].tolist()
    return sum(w * math.log1p(math.exp(-score)) for w, score in zip(weights, scores, strict=True))


def normalised(values: list[float]) -> list[float]:
    return [value / sum(values) for value in values]


BY_HAND: dict[str, tuple[dict[str, float], list[float]]] = {
    "position": ({"position": 1.0}, normalised([math.exp(-k / 2.0) for k in (1, 2, 3)])),
    "confidence": ({"confidence": 1.0}, [0.8, 0.0, 0.2]),
    "agreement": ({"agreement": 1.0}, [0.5, 0.0, 0.5]),
    "all": (
        {"position": 0.3, "confidence": 0.5, "agreement": 0.1},
        normalised(
            [
                0.3 * rank + 0.5 * sure + 0.1 * agreed
                for rank, sure, agreed in zip(
                    normalised([math.exp(-k / 2.0) for k in (1, 2, 3)]), (0.8, 0.0, 0.2), (1, 0, 1), strict=True
                )
            ]
        ),
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_rd_weighs_each_item_as_stated(case: str) -> None:
    shares, weights = BY_HAND[case]
    found = loss_of(distiller_of("RD", teacher(), k=3, tau=2.0, list_weights=shares))
    assert found == pytest.approx(pointwise(weights, (2, 4, 1)), rel=1e-5)
    assert found != pytest.approx(loss_of(distiller_of("RD", teacher(), k=3, tau=1.0)), rel=1e-3)


@pytest.mark.parametrize("case", BY_HAND)
def test_ce_multiplies_the_teachers_softmax_by_the_weights(case: str) -> None:
    shares, weights = BY_HAND[case]
    options = {"k": 3, "temperature": 1.5, "list_weights": shares, "list_tau": 2.0}
    found = loss_of(distiller_of("CE", teacher(), **options))
    target = normalised([w * math.exp(score / 1.5) for w, score in zip(weights, (3.0, 2.0, 1.0), strict=True)])
    log_student = torch.log_softmax(STUDENT[1, [2, 4, 1]] / 1.5, 0)
    assert found == pytest.approx(-sum(t * float(q) for t, q in zip(target, log_student, strict=True)), rel=1e-5)


@pytest.mark.parametrize("case", BY_HAND)
def test_rrd_multiplies_the_terms_of_its_items_by_weights_of_mean_one(case: str) -> None:
    shares, weights = BY_HAND[case]
    options = {"k": 3, "candidates": 3, "n_samples": 2, "sampling": "none", "list_tau": 2.0}
    found = loss_of(distiller_of("RRD", teacher(), **options, list_weights=shares))
    scores, total = STUDENT[1].double(), 0.0
    for k, item in enumerate((2, 4, 1)):
        below = scores[[*(2, 4, 1)[k:], 3, 5]].logsumexp(0)  # 3 and 5 are the only items outside the list
        total += 3 * weights[k] * float(below - scores[item])
    assert found == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("case", BY_HAND)
def test_rce_kd_multiplies_both_softmaxes_and_an_unlisted_item_has_the_smallest_weight(case: str) -> None:
    shares, weights = BY_HAND[case]
    asked = teacher()
    options = {
        "k": 3,
        "n_samples": 1,
        "code_candidates": 4,
        "temperature": 1.5,
        "list_weights": shares,
        "list_tau": 2.0,
    }
    distiller = distiller_of("RCEKD", asked, **options)
    found, gamma, weight_of = loss_of(distiller), float(distiller._gamma[1]), dict(zip((2, 4, 1), weights, strict=True))
    chosen, valid = distiller._chosen[1], distiller._valid[1]
    expected = 0.0
    for share, part in ((1 - gamma, slice(0, 3)), (gamma, slice(3, None))):
        items = chosen[part][valid[part]].tolist()
        scores = asked.at(torch.tensor([1]), torch.tensor([items]))[0].tolist()
        target = normalised(
            [
                max(weight_of.get(item, min(weights)), 1e-8) * math.exp(score / 1.5)
                for item, score in zip(items, scores, strict=True)
            ]
        )
        log_student = torch.log_softmax(STUDENT[1, items] / 1.5, 0)
        expected -= share * sum(t * float(q) for t, q in zip(target, log_student, strict=True))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shares", [shares for shares, _ in BY_HAND.values()])
def test_vanilla_ce_is_ce_with_the_same_weights(shares: dict[str, float]) -> None:
    options = {"k": 3, "list_weights": shares, "list_tau": 2.0}
    assert loss_of(distiller_of("RCEKD", teacher(), **options, variant="vanilla_ce")) == pytest.approx(
        loss_of(distiller_of("CE", teacher(), **options)), rel=1e-6
    )


@pytest.mark.parametrize("scale", [1.0, 500.0])
def test_the_weighted_list_loss_has_the_gradient_of_its_formula(scale: float) -> None:
    """At scale 500 sums of exponentials underflow, and the loss is computed in log space."""
    torch.manual_seed(3)
    listed, rest = (torch.randn(4, 2, 5) * scale).requires_grad_(), (torch.randn(4, 3) * scale).requires_grad_()
    weights = torch.rand(4, 2, 5)
    valid = torch.rand(4, 2, 5) > 0.2
    listwise_loss(listed, rest, valid, None, weights).sum().backward()
    own, other = (table.detach().double().requires_grad_() for table in (listed, rest))
    total = torch.zeros((), dtype=torch.float64)
    for row, some, k in valid.nonzero().tolist():
        below = torch.cat([own[row, some, k:][valid[row, some, k:]], other[row]]).logsumexp(0)
        total = total + weights[row, some, k] * (below - own[row, some, k])
    total.backward()
    torch.testing.assert_close(listed.grad.double(), own.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rest.grad.double(), other.grad, rtol=1e-4, atol=1e-5)


def test_weights_of_any_items_are_those_of_the_list_or_its_smallest() -> None:
    listed, weights = (
        torch.tensor([[7, 2, 5], [3, 0, 0], [0, 0, 0]]),
        torch.tensor([[0.5, 0.2, 0.3], [1, 0, 0], [0, 0, 0]]),
    )
    found = weights_at(torch.tensor([[2, 7, 9, 5], [3, 4, 1, 3], [1, 2, 3, 4]]), listed, weights)
    assert found.tolist() == pytest.approx(torch.tensor([[0.2, 0.5, 0.2, 0.3], [1.0] * 4, [1.0] * 4]))


@pytest.mark.parametrize("name", ["CE", "RD"])
def test_agreement_follows_the_student_and_the_other_terms_stay(name: str) -> None:
    for shares, follows in (({"agreement": 1.0}, True), ({"confidence": 1.0}, False)):
        distiller = distiller_of(name, teacher(), k=3, list_weights=shares)
        before = loss_of(distiller)
        with torch.no_grad():  # the student now ranks 4 in place of 1, with the same scores of the list's items
            distiller.student_scorer.table[1, 3] = -9.0
            distiller.student_scorer.table[1, 5] = -9.0
        distiller.begin_epoch(1)
        assert (loss_of(distiller) != pytest.approx(before, rel=1e-3)) == follows


def test_short_lists_and_lists_without_any_confidence_have_finite_weights() -> None:
    valid = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    shares = {"position": 1.0, "confidence": 1.0, "agreement": 1.0}
    found = list_weights(shares, valid, 1.0, torch.zeros(3, 3), torch.zeros(3, 3, dtype=torch.bool))
    assert bool(found.isfinite().all()) and bool((found[~valid] == 0).all())
    assert found.sum(1).tolist() == pytest.approx([1.0, 1.0, 0.0])
    large = list_weights({"confidence": 1.0}, valid, 1.0, torch.full((3, 3), 3e38), None)
    assert large[0].tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_a_teacher_of_all_scores_can_be_weighed_by_rank_and_agreement() -> None:
    asked = dense(torch.tensor([[1.0, 5.0, 0.0, 4.0, 3.0], [0.0, 1.0, 2.0, 3.0, 4.0]]))
    found = loss_of(distiller_of("RD", asked, k=3, tau=2.0, list_weights={"position": 1.0}))
    assert found == pytest.approx(pointwise(BY_HAND["position"][1], (2, 4, 5)), rel=1e-5)


def test_confidences_keep_their_items_behind_other_ids() -> None:
    mapped = MappedScores(teacher(), torch.tensor([0, 2, 1]))
    assert mapped.has_confidence
    found = mapped.confidence(torch.tensor([2, 1]), torch.tensor([[4, 2, 3], [5, 1, 0]]))
    assert found.tolist() == pytest.approx(torch.tensor([[0.0, 0.8, 0.0], [0.5, 0.0, 0.0]]))


@pytest.mark.parametrize("name", ["CE", "RD", "RRD", "RCEKD"])
def test_what_has_no_effect_or_no_confidence_is_one_sentence(name: str) -> None:
    cls = distiller_class(name)
    sizes = {"RRD": {"n_samples": 2, "candidates": 4}, "RCEKD": {"n_samples": 2}}.get(name, {})
    options = check_options(cls, {"k": 3, **sizes, "list_weights": {"confidence": 1.0}}, 2, 5)
    cls.check_teacher(teacher(), options)
    with pytest.raises(TeacherError, match="needs a teacher's confidences and Table has none"):
        cls.check_teacher(dense(torch.ones(2, 5)), options)
    for wrong in ({}, {"position": 0.0}):
        with pytest.raises(ConfigError, match="expected a share above 0"):
            check_options(cls, {"k": 3, **sizes, "list_weights": wrong}, 2, 5)
    for wrong in ({"rank": 1.0}, {"position": -1.0}, "position"):  # type: ignore[assignment]
        with pytest.raises(ConfigError, match="position, confidence or agreement"):
            check_options(cls, {"k": 3, **sizes, "list_weights": wrong}, 2, 5)
    always = name == "RCEKD"
    assert cls.asks_student({**options, "list_weights": {"agreement": 1.0}}) and cls.asks_student(options) == always


@pytest.mark.parametrize("sure", [[-0.1, 1.0], [float("nan"), 1.0], [1.0]])
def test_confidences_that_are_none_are_refused(sure: list[float]) -> None:
    with pytest.raises(TeacherError, match="confidences"):
        ListScores(torch.tensor([0, 0, 2]), torch.tensor([1, 2]), torch.tensor([2.0, 1.0]), 5, {}, torch.tensor(sure))
