"""A store of ranked lists: what it answers inside and outside its lists, and which methods learn from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_kd.distiller.registry import DISTILLERS, distiller_class
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.teacher.stores.dense import DenseScores
from recbole_kd.teacher.stores.lists import ListScores, treat_unlisted
from recbole_kd.teacher.stores.remapped import MappedScores
from tests.support.lists import lists_of, top_of
from tests.support.stubs import TableScorer, batch_for, no_train_items, padded

LEARN_FROM_LISTS = ("CE", "DCD", "RCEKD", "RD", "RRD", "RankDistil", "TARec")
SMALL: dict[str, dict[str, Any]] = {
    "CE": {"k": 4},
    "DCD": {"k": 2, "candidates": 4},
    "RCEKD": {"k": 4, "n_samples": 3, "candidates": 8},
    "RD": {"k": 4, "n_samples": 3, "start_epoch": 0},
    "RRD": {"k": 2, "candidates": 4, "n_samples": 3},
    "RankDistil": {"k": 4, "n_samples": 3},
    "TARec": {"k": 4, "n_negatives": 3},
}


def table(n_queries: int = 6, n_items: int = 12, seed: int = 0) -> Tensor:
    return padded(torch.randn(n_queries, n_items, generator=torch.Generator().manual_seed(seed)))


def distiller_of(name: str, teacher: Any, student: Tensor) -> Any:
    distiller = distiller_class(name)(TableScorer(student), teacher, **SMALL[name])
    distiller.begin_training(no_train_items(len(student)))
    distiller.begin_epoch(0)
    return distiller


# -- answers ----------------------------------------------------------------------------------------------------------


def test_listed_items_have_their_scores_and_all_others_one_step_below_the_last() -> None:
    teacher = lists_of([[], [(3, 5.0), (1, 3.0), (4, 1.0)], [(2, 7.0)], [(1, 2.0), (2, 2.0)], []], 6)
    expected = torch.tensor(
        [
            [0.0, 0, 0, 0, 0, 0],
            [-1.0, 3, -1, 5, 1, -1],  # steps of 2
            [6.0, 6, 7, 6, 6, 6],  # one item: a step of 1
            [1.0, 2, 2, 1, 1, 1],  # equal scores: a step of 1
            [0.0, 0, 0, 0, 0, 0],
        ]
    )
    queries = torch.arange(5)
    items = torch.arange(6).repeat(5, 1)
    assert torch.equal(teacher.full(queries), expected)
    assert torch.equal(teacher.at(queries, items), expected)
    assert torch.equal(teacher.at(queries.flip(0), items.flip(1)), expected.flip(0, 1))
    assert teacher.covered is not None and teacher.covered.tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("scale", [1e-30, 1e30, 3e38])
def test_outside_is_below_the_last_and_finite_at_extreme_scores(scale: float) -> None:
    teacher = lists_of([[], [(1, scale), (2, -scale)], [(3, scale)]], 5)
    scores = teacher.full(torch.arange(1, 3))
    assert bool(scores.isfinite().all())
    assert float(scores[0, 4]) <= float(scores[0, 2]) and float(scores[1, 4]) < float(scores[1, 3])


def test_the_first_items_leave_out_what_is_excluded_and_never_hold_an_unlisted_item() -> None:
    teacher = lists_of([[], [(3, 5.0), (1, 3.0), (4, 1.0)], [(2, 7.0)], []], 6)
    exclude = Ragged(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 5]))
    ids, scores = teacher.top_k(torch.tensor([3, 1, 2]), 2, exclude)
    assert ids.tolist() == [[0, 0], [3, 4], [2, 0]]
    assert scores.tolist() == [[-torch.inf] * 2, [5.0, 1.0], [7.0, -torch.inf]]
    assert teacher.top_k(torch.tensor([1]), 5)[0].tolist() == [[3, 1, 4, 0, 0]]


def test_a_mapped_store_answers_by_the_lists_of_its_ids() -> None:
    teacher = lists_of([[], [(3, 5.0), (1, 3.0), (4, 1.0)], []], 6)
    mapped = MappedScores(teacher, torch.tensor([0, 1, 1, 2]))
    assert mapped.covered is not None and mapped.covered.tolist() == [False, True, True, False]
    assert not mapped.complete
    exclude = Ragged(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([3, 1]))  # each query its own, of one user
    assert mapped.top_k(torch.arange(1, 4), 3, exclude)[0].tolist() == [[1, 4, 0], [3, 4, 0], [0, 0, 0]]
    assert mapped.top_k(torch.arange(1, 4), 2)[0].tolist() == [[3, 1], [3, 1], [0, 0]]


def test_lists_as_long_as_k_are_the_teacher_they_were_cut_from() -> None:
    scores = table()
    whole, cut = DenseScores(scores), top_of(scores, 5)
    queries = torch.arange(1, 7)
    for k in (1, 3, 5):
        for one, other in zip(whole.top_k(queries, k), cut.top_k(queries, k), strict=True):
            assert torch.equal(one, other)
    listed = whole.top_k(queries, 5)[0]
    assert torch.equal(whole.at(queries, listed), cut.at(queries, listed))


@pytest.mark.parametrize(
    ("items", "scores", "said"),
    [
        ([1, 1], [2.0, 1.0], "twice"),
        ([1, 2], [1.0, 2.0], "not increasing"),
        ([1, 2], [float("nan"), 2.0], "finite"),
        ([0, 2], [3.0, 2.0], "outside 1 to 4"),
        ([1, 5], [3.0, 2.0], "outside 1 to 4"),
        ([1], [3.0], "not ranked lists"),
    ],
)
def test_what_is_no_list_is_refused(items: list[int], scores: list[float], said: str) -> None:
    with pytest.raises(TeacherError, match=said):
        ListScores(torch.tensor([0, 0, 2]), torch.tensor(items), torch.tensor(scores), 5)


# -- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(DISTILLERS))
def test_each_method_says_whether_it_learns_from_lists(name: str) -> None:
    cls, teacher = distiller_class(name), top_of(table(), 3)
    if name in LEARN_FROM_LISTS:
        cls.check_teacher(teacher)
        return
    with pytest.raises(TeacherError) as error:
        cls.check_teacher(teacher)
    said = str(error.value)
    assert said.startswith(f"{name} needs") and "Lists" in said and "\n" not in said


def test_rce_kd_on_the_whole_catalogue_needs_all_scores() -> None:
    cls, teacher = distiller_class("RCEKD"), top_of(table(), 3)
    cls.check_teacher(teacher, {"variant": "rce"})
    with pytest.raises(TeacherError, match="score of every item"):
        cls.check_teacher(teacher, {"variant": "full_ce"})


@pytest.mark.parametrize("name", LEARN_FROM_LISTS)
@pytest.mark.parametrize("length", [1, 2, 4, 12])
def test_a_list_shorter_than_k_gives_a_finite_loss_and_gradient(name: str, length: int) -> None:
    distiller = distiller_of(name, top_of(table(), length), table(seed=1))
    loss = distiller(batch_for(distiller, [1, 2, 2, 6]))
    loss.backward()
    gradient = distiller.student_scorer.table.grad
    assert bool(loss.isfinite()) and bool(gradient.isfinite().all())
    if name not in ("RD", "CE", "DCD") or length > 1:  # they compare items of the list with each other
        assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize("name", ["CE", "RRD", "RD", "RankDistil"])  # the others ask about items outside the list
def test_lists_as_long_as_k_teach_what_the_teacher_teaches(name: str) -> None:
    losses = []
    for teacher in (DenseScores(table(), {"model": "Whole"}), top_of(table(), 4)):
        distiller = distiller_of(name, teacher, table(seed=1))
        losses.append(distiller(batch_for(distiller, [1, 2, 2, 6])))
    assert torch.equal(losses[0], losses[1])


@pytest.mark.parametrize("name", LEARN_FROM_LISTS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_query_without_a_list_has_no_term_and_does_not_change_the_others(name: str, reduction: str) -> None:
    found = {}
    for case, teacher in {"all": top_of(table(), 4), "some": top_of(table(), 4, without=(2,))}.items():
        distiller = distiller_of(name, teacher, table(seed=1))
        distiller.reduction = reduction
        batch = batch_for(distiller, [1, 2, 2, 6])
        share = batch.share if reduction == "mean" else 1.0
        (distiller(batch) * share).backward()
        found[case] = distiller.student_scorer.table.grad
        assert batch.queries.tolist() == ([1, 2, 6] if case == "all" else [1, 6])
        assert batch.share == (1.0 if case == "all" else 0.5)
    assert bool((found["some"][2] == 0).all()) and bool((found["all"][2] != 0).any())
    if name == "CE":  # it draws nothing, so that the others are the same
        torch.testing.assert_close(found["some"][[1, 6]], found["all"][[1, 6]])


def test_a_batch_without_any_covered_query_has_no_share() -> None:
    distiller = distiller_of("CE", top_of(table(), 4, without=(2, 3)), table(seed=1))
    batch = batch_for(distiller, [2, 3])
    assert len(batch.queries) == 0 and batch.share == 0


# -- teacher_unlisted=mask --------------------------------------------------------------------------------------------

ASK_OUTSIDE = {
    "CE": {"k": 4, "guide": "student"},
    **{name: SMALL[name] for name in ("RCEKD", "RRD", "RankDistil", "TARec")},
}


def masked(rows: list[list[tuple[int, float]]], n_items: int) -> ListScores:
    teacher = lists_of(rows, n_items)
    treat_unlisted(teacher, "mask")
    return teacher


def hand_made(name: str, options: dict[str, Any], teacher: Any, student: list[float]) -> tuple[float, Tensor]:
    """The loss of one query and its gradient in the student's scores."""
    scorer = TableScorer(torch.tensor([[0.0] * len(student), student]))
    distiller = distiller_class(name)(scorer, teacher, **options)
    distiller.begin_training(no_train_items(2))
    distiller.begin_epoch(0)
    loss = distiller(batch_for(distiller, [1]))
    loss.backward()
    return float(loss.detach()), scorer.table.grad[1]


LISTED, STUDENT = [(2, 1.0), (3, 0.0)], [0.0, 0.7, 0.2, -0.3, 0.4, 0.1]  # items 1 to 5, of which 2 and 3 are listed


def soft(*scores: float) -> Tensor:
    return torch.softmax(torch.tensor(scores), 0)


def by_hand(name: str) -> float:
    """The loss on the two listed items alone."""
    p, q = soft(1.0, 0.0), soft(STUDENT[2], STUDENT[3])
    if name in ("CE", "RCEKD"):
        return float(-(p * q.log()).sum())
    if name in ("RRD", "RankDistil"):
        return float(-q[0].log())  # the second of two is certain
    return float((p[0] - q[0]).abs())  # Wasserstein of two places at distance 1


MASKED_OPTIONS: dict[str, dict[str, Any]] = {
    "CE": {"k": 5, "guide": "student"},
    "RCEKD": {"k": 5, "n_samples": 5, "candidates": 5},  # both sets are the two listed items, so that gamma cancels
    "RRD": {"k": 2, "candidates": 2, "n_samples": 3},
    "RankDistil": {"k": 2, "n_samples": 3, "tau": 0.0},
    "TARec": {"k": 2, "n_negatives": 3},
}


@pytest.mark.parametrize("name", MASKED_OPTIONS)
def test_masked_items_are_in_no_softmax_and_no_pair(name: str) -> None:
    teacher = masked([[], LISTED], 6)
    loss, gradient = hand_made(name, MASKED_OPTIONS[name], teacher, STUDENT)
    assert loss == pytest.approx(by_hand(name), rel=1e-5)
    assert bool((gradient[[0, 1, 4, 5]] == 0).all()) and bool((gradient[[2, 3]] != 0).all())
    floor, outside = hand_made(name, MASKED_OPTIONS[name], lists_of([[], LISTED], 6), STUDENT)
    assert floor != pytest.approx(loss, rel=1e-3) and float(outside[[1, 4, 5]].abs().sum()) > 0


@pytest.mark.parametrize("name", ASK_OUTSIDE)
def test_a_query_whose_other_items_are_all_masked_has_a_finite_loss(name: str) -> None:
    teacher = top_of(table(), 1)
    treat_unlisted(teacher, "mask")
    mapped = MappedScores(teacher, torch.arange(7))
    for asked in (teacher, mapped):
        distiller = distiller_class(name)(TableScorer(table(seed=1)), asked, **ASK_OUTSIDE[name])
        distiller.begin_training(no_train_items(7))
        distiller.begin_epoch(0)
        loss = distiller(batch_for(distiller, [1, 2, 6]))
        loss.backward()
        assert bool(loss.isfinite()) and bool(distiller.student_scorer.table.grad.isfinite().all())


def test_a_method_without_unlisted_items_and_a_teacher_without_lists_refuse_the_key() -> None:
    teacher = masked([[], LISTED], 6)
    for name, options in (("CE", {"guide": "teacher"}), ("DCD", {}), ("RD", {}), ("RCEKD", {"variant": "wo_s"})):
        with pytest.raises(TeacherError, match="teacher_unlisted=mask has no effect"):
            distiller_class(name).check_teacher(teacher, options)
    distiller_class("CE").check_teacher(teacher, {"guide": "student"})
    with pytest.raises(ConfigError, match="which scores every item"):
        treat_unlisted(DenseScores(table()), "mask")
    with pytest.raises(ConfigError, match="expected floor or mask"):
        treat_unlisted(teacher, "zero")
