"""CE and FullCE: equal to the published class KD, to their formula, in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recbole_kd.distiller import full_ce
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.ce import CE
from recbole_kd.distiller.full_ce import FullCE
from recbole_kd.distiller.registry import check_options
from recbole_kd.errors import ConfigError
from recbole_kd.losses import catalogue_cross_entropy
from recbole_kd.losses.catalogue_cross_entropy import full_cross_entropy
from recbole_kd.losses.cross_entropy import cross_entropy
from recbole_kd.ops import compiled as compiled_ops
from recbole_kd.ops import compiled_catalogue
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.stores.factors import FactorScores
from tests.support.baselines import (
    ids,
    loss_of,
    loss_of_case,
    of_case,
    random_scores,
    random_train,
    references,
    started,
    train_items_of,
)
from tests.support.helpers import TinyData, build_case
from tests.support.stubs import batch_for


@pytest.mark.parametrize("case", references("ce"), ids=["teacher", "student", "teacher-2", "extreme"])
def test_equals_the_published_class(case: dict[str, Any]) -> None:
    distiller, _ = of_case(CE, case)
    assert torch.equal(distiller.item_sets["list"][1:], ids(case["list"])[1:])
    assert loss_of_case(distiller, case) == pytest.approx(case["loss"], rel=1e-5)


def test_lists_mask_training_items_on_demand() -> None:
    train = random_train(share=0.6)
    for guide in ("teacher", "student"):
        masked, _ = started(CE, *random_scores(), train, k=25, guide=guide, mask_train=True)
        for query in range(1, 8):
            listed = set(masked.item_sets["list"][query].tolist()) - {0}
            assert listed == set(range(1, 31)) - train_items_of(train, query)
        assert masked(batch_for(masked, [1, 2])).isfinite()


def test_a_teachers_list_is_kept_and_a_students_is_not() -> None:
    for guide, kept in (("teacher", True), ("student", False)):
        distiller, scorer = started(CE, *random_scores(), k=5, guide=guide)
        before = distiller.item_sets["list"]
        scorer.table.data = scorer.table.data.flip(1)
        distiller.begin_epoch(1)
        assert torch.equal(before, distiller.item_sets["list"]) is kept


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_full_ce_by_its_formula(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = random_scores()
    distiller, scorer = started(FullCE, student, teacher, temperature=temperature)
    monkeypatch.setattr(full_ce, "blocks", lambda *_: [slice(0, 2), slice(2, 3)])
    loss = distiller(batch_for(distiller, [1, 1, 4, 7]))
    loss.backward()
    table = student.clone().requires_grad_()
    expected = (
        cross_entropy(table[[0, 3, 6]], teacher[[0, 3, 6]], None, temperature) * torch.tensor([2.0, 1.0, 1.0])
    ).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(scorer.table.grad[1:, 1:], table.grad)  # type: ignore[index]


@pytest.mark.parametrize("model", ["MF", "LightGCN", "NeuMF"])
def test_full_ce_gives_a_models_own_gradient(
    model: str, tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backward pass makes the blocks again, after the step's shared encoding is gone."""
    case = build_case(tiny_dataset, model, dropout_prob=0.0)
    scorer = Scorer(case.model)
    generator = torch.Generator().manual_seed(0)
    teacher = FactorScores(*(torch.randn(n, 3, generator=generator) for n in (scorer.n_queries, scorer.n_items)))
    distiller = FullCE(scorer, teacher)
    queries = torch.tensor([1, 4, 9])
    batch = DistillBatch(queries, torch.ones(3))
    for module in (full_ce, catalogue_cross_entropy):
        monkeypatch.setattr(module, "blocks", lambda *_: [slice(0, 1), slice(1, 3)])
    with scorer.step():
        loss = distiller(batch)
    loss.backward()
    found = {name: p.grad.clone() for name, p in case.model.named_parameters() if p.grad is not None}
    case.model.zero_grad()
    cross_entropy(scorer.full(queries)[:, 1:], teacher.full(queries)[:, 1:]).mean().backward()
    expected = {name: p.grad for name, p in case.model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys() and found
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", ["MF", "NeuMF"])
def test_full_ce_keeps_no_scores(model: str, tiny_dataset: TinyData) -> None:
    """What is kept for the backward pass does not grow with the catalogue's score rows."""
    case = build_case(tiny_dataset, model)
    scorer = Scorer(case.model)
    teacher = FactorScores(torch.randn(scorer.n_queries, 3), torch.randn(scorer.n_items, 3))
    distiller = FullCE(scorer, teacher)
    sizes: list[tuple[int, ...]] = []

    def seen(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        distiller(DistillBatch(torch.arange(1, 21), torch.ones(20)))
    assert not [shape for shape in sizes if 20 * (scorer.n_items - 1) <= torch.Size(shape).numel() and 20 in shape[:1]]


@pytest.mark.parametrize("way", ["plain", "compiled", "kept"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_full_cross_entropy_equals_autograd(scale: float, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "plain":
        monkeypatch.setattr(compiled_ops, "kernels", lambda: None)
    monkeypatch.setattr(compiled_catalogue, "SCORES_FROM", 0)
    monkeypatch.setattr(catalogue_cross_entropy, "blocks", lambda *_: [slice(0, 2), slice(2, 5)])
    generator = torch.Generator().manual_seed(0)
    ours = [(torch.randn(n, 3, generator=generator) * scale**0.5).requires_grad_() for n in (5, 9)]
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    teacher, weights = torch.randn(5, 9, generator=generator) * scale, torch.tensor([1.0, 3.0, 1.0, 2.0, 5.0])
    kept = (teacher.flip(0), torch.arange(5).flip(0)) if way == "kept" else None
    found = full_cross_entropy(*ours, weights, lambda rows: teacher[rows], 2.0, kept)
    expected = (cross_entropy(theirs[0] @ theirs[1].T, teacher, None, 2.0) * weights).sum()
    (3 * found).backward()
    (3 * expected).backward()
    torch.testing.assert_close(found, expected)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5 * scale**0.5)


@example(np.array([[9638.0, 9634.0]], dtype=np.float32), 3.0)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 70)), elements=st.floats(-1e4, 1e4, width=32)),
    st.floats(0.05, 20),
)
def test_the_kernel_of_full_rows_equals_the_plain_path(scores: np.ndarray, temperature: float) -> None:
    pytest.importorskip("numba")
    teacher, weights = torch.from_numpy(scores[::-1, ::-1].copy()), torch.arange(1.0, len(scores) + 1)
    ours = torch.from_numpy(scores) / temperature
    theirs = ours.double()  # in float32 the plain path loses digits of the teacher's quotients that the kernel keeps
    losses = compiled_ops.full_slopes(ours, teacher, weights, temperature)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled_ops, "kernels", lambda: None)
        expected = catalogue_cross_entropy._slopes(theirs, teacher.double(), weights.double(), temperature)
    torch.testing.assert_close(losses, expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-6 * max(1, 4 / temperature))


@pytest.mark.parametrize("which", [0, 1])
def test_a_score_that_is_no_number_is_not_hidden_by_the_kernel(which: int) -> None:
    pytest.importorskip("numba")
    sides = torch.randn(2, 3, 40)
    sides[which, 1, 7] = torch.nan
    losses = compiled_ops.full_slopes(sides[0], sides[1], torch.ones(3), 1.0)
    assert losses is not None and losses.isnan().tolist() == [False, True, False]
    assert sides[0].isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_kept_scores_in_one_pass_at_any_size_and_with_nan(which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More queries and items than are scored at once; NaN in a query, or in the teacher's scores of one."""
    pytest.importorskip("numba")
    monkeypatch.setattr(compiled_catalogue, "SCORES_FROM", 0)
    generator = torch.Generator().manual_seed(2)
    vectors, items = (torch.randn(n, 20, generator=generator).requires_grad_() for n in (71, 333))
    teacher, rows, weights = torch.randn(90, 333, generator=generator), torch.randperm(90)[:71], torch.rand(71)
    if which:
        [vectors.data[7], teacher[rows[7]]][which - 1][3] = torch.nan
    found, expected = (
        full_cross_entropy(vectors, items, weights, lambda some: teacher[rows[some]], 0.5, kept)
        for kept in ((teacher, rows), None)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0, equal_nan=True)
    gradients = [torch.autograd.grad(total, (vectors, items)) for total in (found, expected)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert gradients[0][0][7].isnan().all() == (which > 0) and gradients[0][0][[0, 6, 8, 70]].isfinite().all()


def test_the_kernels_exponential_is_exact_to_two_in_ten_million() -> None:
    kernels_exp = pytest.importorskip("recbole_kd.ops.kernels.exp")
    below = np.concatenate([-np.logspace(-8, 2.5, 4000), [0.0, -86.9, -87.1, -np.inf]]).astype(np.float32)
    found = np.array([kernels_exp.exp_below_one(value) for value in below])
    exact = np.exp(below.astype(np.float64))
    normal = below > -87
    np.testing.assert_allclose(found[normal], exact[normal], rtol=2e-7)
    assert (found[~normal] == 0).all()


@pytest.mark.parametrize(
    ("cls", "changed", "words"),
    [
        (CE, {"k": 0}, "kd_k=0"),
        (CE, {"k": 41}, "kd_k=41"),
        (CE, {"temperature": 0.0}, "kd_temperature=0.0"),
        (FullCE, {"temperature": -1}, "kd_temperature=-1"),
    ],
)
def test_options_out_of_range_name_their_key(cls: Any, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(cls, {"k": 5, **changed} if cls is CE else changed, 30, 40)


def test_rows_count_as_often_as_they_come() -> None:
    distiller, _ = started(CE, *random_scores(), k=5)
    assert loss_of(distiller, [1, 1, 4]) == pytest.approx(
        2 * loss_of(distiller, [1]) + loss_of(distiller, [4]), rel=1e-5
    )
