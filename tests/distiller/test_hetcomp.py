"""HetComp equals the published class in both losses and in its schedule.

The tests also cover the rest of the catalogue in chunks, and whole runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_kd.cli.run import main
from recbole_kd.distiller.hetcomp import HetComp
from recbole_kd.distiller.registry import check_options
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.losses import unlisted_logsumexp
from recbole_kd.losses.hetcomp import Terms, coarse_terms, fine_terms, list_distance, merged_lists
from recbole_kd.losses.unlisted_logsumexp import ListedRows, rest_above, rest_above_of, rest_above_rows
from recbole_kd.ops.ragged import Ragged
from recbole_kd.teacher.stores.dense import DenseScores
from recbole_kd.teacher.stores.ensemble import SeveralTeachers
from tests.support import paths
from tests.support.runs import results, run, words
from tests.support.stubs import TableScorer, batch_for, dense, no_train_items, padded

REFERENCE = json.loads((paths.REFERENCE / "hetcomp.json").read_text())


def ragged(train: list[list[int]]) -> Ragged:
    """Of lists of items from 0, one a user from 0; pads in front."""
    users = [user + 1 for user, items in enumerate(train) for _ in items]
    items = [item + 1 for items in train for item in items]
    return Ragged.from_pairs(np.array(users, dtype=np.int64), np.array(items, dtype=np.int64), len(train) + 1)


def with_trajectory(checkpoints: list[Tensor]) -> DenseScores:
    *earlier, last = [dense(scores) for scores in checkpoints]
    last.earlier = lambda: list(earlier)
    return last


def made(
    student: Tensor, checkpoints: list[Tensor], train: Ragged | None = None, **options: Any
) -> tuple[HetComp, TableScorer]:
    scorer = TableScorer(padded(student))
    distiller = HetComp(scorer, with_trajectory(checkpoints), **options)  # type: ignore[arg-type]
    distiller.reduction = "sum"
    distiller.begin_training(no_train_items(scorer.n_queries) if train is None else train)
    return distiller, scorer


def random_scores(n_users: int = 7, n_items: int = 30, seed: int = 0) -> Tensor:
    return torch.randn(n_users, n_items, generator=torch.Generator().manual_seed(seed))


# -- the published class -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", REFERENCE["losses"], ids=["random-1", "random-2", "random-3", "extreme"])
@pytest.mark.parametrize("phase", ["coarse", "fine"])
def test_losses_equal_the_published_class(case: dict[str, Any], phase: str) -> None:
    teacher = torch.tensor(case["teacher"])
    checkpoints = [teacher] if phase == "fine" else [teacher, teacher]
    distiller, _ = made(torch.tensor(case["student"]), checkpoints, ragged(case["train"]), k=case["k"])
    assert torch.equal(distiller.item_sets["top"][1:], torch.tensor(case["tops"]) + 1)
    assert torch.equal(distiller._positives[1:], torch.tensor(case["positives"]) + 1)
    assert distiller.diagnostics()["fine"] == (phase == "fine")
    loss = distiller(batch_for(distiller, [user + 1 for user in case["batch"]]))
    assert float(loss.detach()) == pytest.approx(case[phase], rel=1e-5)


@pytest.mark.parametrize("case", REFERENCE["schedules"], ids=["slow-1", "slow-2", "slower", "slowest"])
def test_schedule_equals_the_published_class(case: dict[str, Any]) -> None:
    checkpoints = [torch.tensor(scores) for scores in case["checkpoints"]]
    students = [torch.tensor(scores) for scores in case["students"]]
    distiller, scorer = made(
        students[0], checkpoints, ragged(case["train"]), k=case["k"], alpha=case["alpha"], p=case["p"]
    )
    assert torch.equal(distiller._lists[0][:, 1:], torch.tensor(case["perms"]) + 1)
    for step in case["trace"]:
        scorer.table.data = padded(students[step["student"]])
        distiller.begin_epoch(step["epoch"])
        position = distiller._position[0, 1:]
        assert position.tolist() == step["position"]
        if step["memory"] is not None:
            assert distiller._memory is not None
            assert distiller._memory[0, 1:].tolist() == pytest.approx(step["memory"], abs=1e-12)
        target = torch.tensor(case["perms"])[position, torch.arange(len(position))] + 1
        assert torch.equal(distiller.item_sets["top"][1:], target)
        assert distiller.diagnostics()["trajectory_mean"] == pytest.approx(
            sum(step["position"]) / len(step["position"])
        )


# -- the rest, in chunks -----------------------------------------------------------------------------------------------


def direct(queries: Tensor, items: Tensor, rows: ListedRows, below: Tensor, factors: Tensor) -> Tensor:
    """rest_above by its definition, user by user, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for row, query in enumerate(rows.queries.tolist()):
        apart = {
            0,
            *rows.listed[row].tolist(),
            *rows.excluded.items[rows.excluded.starts[query] : rows.excluded.starts[query + 1]].tolist(),
        }
        left = [item for item in range(len(items)) if item not in apart]
        rest = (
            torch.logsumexp(items[left] @ queries[row], dim=0)
            if left
            else torch.tensor(-torch.inf, dtype=torch.float64)
        )
        total = total + (factors[row] * (torch.logaddexp(below[row], rest) - below[row])).sum()
    return total


def a_case(scale: float = 1.0, n: int = 9, n_items: int = 40) -> tuple[Tensor, Tensor, ListedRows, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    rng = np.random.default_rng(0)
    excluded = Ragged.from_pairs(rng.integers(1, 12, 60), rng.integers(1, n_items, 60), 12)
    queries, items = (torch.randn(rows, 6, generator=generator) * scale for rows in (n, n_items))
    listed = torch.randint(0, n_items, (n, 5), generator=generator)
    below, factors = torch.randn(n, 7, generator=generator), torch.rand(n, 7, generator=generator)
    return queries, items, ListedRows(torch.arange(n) + 2, listed, excluded), below, factors


def with_gradients(function: Any, *tensors: Tensor, **more: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = function(*leaves, **more)
    return value.detach(), torch.autograd.grad(3 * value, leaves)


@pytest.mark.parametrize("chunk", [1, 1000, 10**9], ids=["row by row", "in chunks", "at once"])
@pytest.mark.parametrize("scale", [0.3, 1.7, 8.0])
def test_the_rest_equals_its_definition_with_gradients(
    chunk: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlisted_logsumexp, "CPU_CHUNK_BYTES", chunk)
    queries, items, rows, below, factors = a_case(scale)
    longest = float(queries.norm(dim=1).amax() * items.norm(dim=1).amax()) / np.log(2)
    assert bool(longest > unlisted_logsumexp.SAFE_BITS) is (scale == 8.0), "with and without the shift"
    tolerance = {"rtol": 2e-4 if scale == 8.0 else 2e-5, "atol": 1e-5 * scale}
    value, gradients = with_gradients(lambda q, v, b: rest_above(q, v, rows, b, factors), queries, items, below)
    exact, expected = with_gradients(
        lambda q, v, b: direct(q, v, rows, b, factors.double()), queries.double(), items.double(), below.double()
    )
    assert float(value) == pytest.approx(float(exact), rel=1e-5)
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, **tolerance)

    def by_scores(q: Tensor, v: Tensor, b: Tensor) -> Tensor:
        return rest_above_of(lambda ids: q[ids - 2] @ v.T, len(items), rows, b, factors)

    def by_known_rows(q: Tensor, v: Tensor, b: Tensor) -> Tensor:
        places = torch.randperm(len(q), generator=torch.Generator().manual_seed(0))
        return rest_above_rows((q @ v.T)[places], places.argsort(), rows, b, factors)

    for other in (by_scores, by_known_rows):
        value, gradients = with_gradients(other, queries, items, below)
        assert float(value) == pytest.approx(float(exact), rel=1e-5)
        for found, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(found.double(), wanted, **tolerance)


@pytest.mark.parametrize("n_items", [2, 3, 40])
def test_huge_scores_and_no_rest_stay_finite(n_items: int) -> None:
    queries, items, rows, below, factors = a_case(60.0, n_items=n_items)
    assert n_items == 2 or float((queries @ items.T).abs().max()) > 1e4
    for function in (
        lambda q, v, b: rest_above(q, v, rows, b, factors),
        lambda q, v, b: rest_above_of(lambda ids: q[ids - 2] @ v.T, n_items, rows, b, factors),
        lambda q, v, b: rest_above_rows(q @ v.T, rows.queries - 2, rows, b, factors),
    ):
        value, gradients = with_gradients(function, queries, items, 1e4 * below)
        assert torch.isfinite(value) and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_the_dot_product_path_equals_the_other(tiny_dataset: Any, tmp_path: Path) -> None:
    from recbole_kd.data.train_items import train_items
    from recbole_kd.scoring.scorer import Scorer
    from tests.support.helpers import build_case

    case = build_case(tiny_dataset, "MF")
    case.model.item_embedding.weight.data.mul_(30)
    n_users, n_items = case.model.n_users, case.model.n_items
    losses, gradients = [], []
    for has_vectors in (True, False):
        scorer = Scorer(case.model)
        teacher = with_trajectory([random_scores(n_users - 1, n_items - 1, seed) for seed in (1, 2, 3)])
        distiller = HetComp(scorer, teacher, k=4)
        distiller.begin_training(train_items(case.loaders.train))
        batch = batch_for(distiller, [3, 1, 1, 7, 0])
        if not has_vectors:
            scorer._encode = None
        loss = distiller(batch)
        losses.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, list(case.model.parameters())))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


# -- pieces ------------------------------------------------------------------------------------------------------------


def test_terms_ignore_what_does_not_count() -> None:
    scores, valid = random_scores(4, 12), torch.ones(4, 12, dtype=torch.bool)
    valid[:, 9:] = False
    for make in (coarse_terms, fine_terms):
        found = []
        for filler in (0.0, 1e4):
            filled = torch.where(valid, scores, filler).requires_grad_()
            loss = make(filled[:, :2], filled[:, 2:], valid[:, :2], valid[:, 2:]).loss(
                torch.tensor([0.0, 1e4, -1e4, -torch.inf])
            )
            (gradient,) = torch.autograd.grad(loss.sum(), filled)
            assert bool(torch.isfinite(loss).all()) and bool(torch.isfinite(gradient).all())
            assert not gradient[:, 9:].any()
            found.append(loss.detach())
        torch.testing.assert_close(found[0], found[1])


def test_distance_of_lists() -> None:
    first = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 0, 0], [0, 0, 0, 0]])
    other = torch.tensor([[4, 3, 2, 1], [5, 6, 7, 8], [2, 1, 0, 0], [0, 0, 0, 0]])
    assert list_distance(first, other).tolist() == [0.0, 1.0, 0.0, 0.0]
    gains = [(2 ** np.exp(-place / 10) - 1) / np.log2(place + 2) for place in range(4)]
    half = list_distance(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 9, 3, 8]]))
    assert float(half) == pytest.approx(1 - round((gains[0] + gains[2]) / sum(gains), 4), abs=1e-12)


def test_lists_of_several_teachers_are_merged_by_their_ranks() -> None:
    lists = torch.tensor([[[1, 2, 3]], [[4, 2, 5]], [[6, 7, 0]]])
    # item 2 counts twice at the second place; 1, 4 and 6 once at the first, ties by id
    assert merged_lists(lists).tolist() == [[2, 1, 4]]
    assert merged_lists(lists[:1]).tolist() == lists[0].tolist()
    assert merged_lists(torch.zeros(2, 1, 3, dtype=torch.int64)).tolist() == [[0, 0, 0]]


def test_each_teacher_has_a_position_of_its_own() -> None:
    student, target = random_scores(5), random_scores(5, seed=9)
    slow = with_trajectory([random_scores(5, seed=2), random_scores(5, seed=3), random_scores(5, seed=4)])
    scorer = TableScorer(padded(student))
    distiller = HetComp(scorer, SeveralTeachers([with_trajectory([random_scores(5, seed=1), target]), slow]), k=6, p=1)  # type: ignore[arg-type]
    distiller.begin_training(no_train_items(6))
    distiller.begin_epoch(1)
    scorer.table.data = padded(target)
    distiller.begin_epoch(2)
    assert distiller._position[0].tolist() == [1] * 6, "the student has reached the first one's last checkpoint"
    assert distiller._ends().squeeze(1).tolist() == [1, 2]
    lists = torch.stack([distiller._lists[m][distiller._position[m], torch.arange(6)] for m in range(2)])
    assert torch.equal(distiller.item_sets["top"], merged_lists(lists))
    assert distiller.diagnostics()["fine"] == 0.0


def test_state_brings_everything_back() -> None:
    checkpoints = [random_scores(seed=seed) for seed in (1, 2, 3)]
    distiller, scorer = made(random_scores(), checkpoints, k=6, p=1)
    distiller.begin_epoch(1)
    scorer.table.data = padded(checkpoints[1])
    distiller.begin_epoch(2)
    other, _ = made(random_scores(), checkpoints, k=6, p=1)
    other.restore_sampling(distiller.sampling_state())
    assert (
        torch.equal(other.item_sets["top"], distiller.item_sets["top"])
        and other.diagnostics() == distiller.diagnostics()
    )
    assert distiller.diagnostics()["trajectory_mean"] > 0
    scorer.table.data = padded(checkpoints[2])
    for each in (distiller, other):
        each.student_scorer = scorer  # type: ignore[assignment]
        each.begin_epoch(3)
    assert torch.equal(other._position, distiller._position) and torch.equal(other._memory, distiller._memory)  # type: ignore[arg-type]


def test_users_without_items_left() -> None:
    train = ragged([[0, 1, 2], [0, 1], [], [0], [2]])
    student = random_scores(5, 3)
    for n in (1, 2):
        distiller, scorer = made(student, [random_scores(5, 3, seed) for seed in range(n)], train, k=3)
        loss = distiller(batch_for(distiller, [1, 2, 3, 4, 5]))
        loss.backward()
        assert torch.isfinite(loss) and scorer.table.grad is not None and bool(torch.isfinite(scorer.table.grad).all())
        assert distiller._positives.shape == (6, 1), "as many as every user with any has"
        distiller.begin_epoch(10)
        distiller.begin_epoch(20)


def test_a_teacher_without_trajectory_is_refused() -> None:
    with pytest.raises(
        TeacherError, match="HetComp needs the checkpoints of the teacher's training and Table has none"
    ):
        HetComp(TableScorer(padded(random_scores())), dense(random_scores()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"),
    [("k", 0), ("k", 11), ("n_checkpoints", 0), ("p", 0), ("alpha", 0.0), ("alpha", float("inf")), ("n_positives", -1)],
)
def test_impossible_options(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"kd_{option}={value}"):
        check_options(HetComp, {"k": 5, option: value}, 5, 10)


def test_terms_are_the_loss_of_the_definition() -> None:
    terms = Terms(torch.tensor([1.0]), torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.5]]))
    expected = 1 + np.log(1 + np.e) + 0.5 * (np.log(np.exp(2) + np.e) - 2)
    assert float(terms.loss(torch.tensor([1.0]))) == pytest.approx(expected)


# -- whole runs --------------------------------------------------------------------------------------------------------

OURS: dict[str, Any] = {"kd": "HetComp", "kd_n_samples": None, "kd_candidates": None, "kd_compare": "False"}


def test_a_run_from_one_teacher(tmp_path: Path) -> None:
    result = run(tmp_path, **OURS, **{"kd_p": "1", "epochs": "4", "teacher.epochs": "6"})
    assert (
        result["teacher"]["trajectory"][-1] == result["teacher"]["best_epoch"]
        and len(result["teacher"]["trajectory"]) <= 3
    )
    assert len(result["distilled"]["kd_loss"]) == 4 and all(loss > 0 for loss in result["distilled"]["kd_loss"])
    assert "trajectory_mean" in (result["folder"] / "run.log").read_text()
    again = run(tmp_path, **OURS, **{"kd_p": "1", "epochs": "4", "teacher.epochs": "6"})
    assert again["teacher"]["cached"] and again["distilled"]["test"] == result["distilled"]["test"]


def test_a_run_from_two_teachers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(tmp_path, **OURS, **{"teacher": "MF,LightGCN", "kd_p": "1", "epochs": "4"})
    assert "teacher MF" in (table := capsys.readouterr().out) and "teacher LightGCN" in table
    members = result["teacher"]["members"]
    assert [member["model"] for member in members] == ["MF", "LightGCN"] and result["teacher_model"] == "MF,LightGCN"
    assert result["teacher"]["parameters"] == sum(member["parameters"] for member in members)
    assert [member["trajectory"][-1] for member in members] == [member["best_epoch"] for member in members]
    one = run(tmp_path, **OURS, **{"teacher": "LightGCN", "kd_p": "1", "epochs": "4"})
    assert one["teacher"]["cached"], "each teacher is a stage of its own"


@pytest.mark.parametrize(
    ("model", "teacher", "more"),
    [
        ("LightGCN", "MF", {}),
        ("MF", "EASE", {}),
        ("NeuMF", "MF", {"teacher_store": "dense"}),
        ("MF", "MF", {"enable_amp": "True"}),
    ],
)
def test_students_and_teachers_of_all_kinds(model: str, teacher: str, more: dict[str, str], tmp_path: Path) -> None:
    own = {"teacher.embedding_size": None, "teacher.epochs": None} if teacher == "EASE" else {}
    result = run(tmp_path, **{**OURS, **own, **more, "model": model, "teacher": teacher, "kd_p": "1"})
    assert all(0 < loss < 1e7 for loss in result["distilled"]["kd_loss"])
    assert result["teacher"]["trajectory"] == list(
        range(1 if teacher == "EASE" else result["teacher"]["best_epoch"] + 1)
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"kd": "RCEKD", "teacher": "MF,LightGCN"},
            "--kd=RCEKD learns from one teacher and --teacher=MF,LightGCN names 2",
        ),
        ({**OURS, "teacher": "MF,MF"}, "names a model twice"),
        ({**OURS, "teacher": "MF,LightGNC"}, "LightGNC"),
        ({**OURS, "teacher": "MF,LightGCN", "teacher.n_layerz": "2"}, "n_layerz"),
        ({**OURS, "teacher": "MF,LightGCN", "teacher.n_layers": "two"}, "teacher.n_layers"),
    ],
)
def test_teachers_that_cannot_be(
    changes: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path, **changes)) == 2
    assert sentence in capsys.readouterr().err
    assert not results(tmp_path)
