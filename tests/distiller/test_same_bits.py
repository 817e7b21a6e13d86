"""Gradients of the expert networks have the same bits on one thread and on several, and NaN comes through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_kd.distiller.de import DE
from recbole_kd.distiller.derrd import DERRD
from recbole_kd.distiller.expert_networks import ExpertMixture
from recbole_kd.distiller.htd import HTD
from recbole_kd.distiller.pckd import PCKD
from recbole_kd.distiller.set_scores import SetScores
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.threads import same_on_any_threads
from recbole_kd.ops.topk import top_k
from recbole_kd.training.determinism import repeatable
from tests.support.embedding_stubs import random_pair


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_work_on_one_thread_has_the_gradients_of_torch(threads: Callable[[int], None]) -> None:
    generator = torch.Generator().manual_seed(2)
    rows, weight, unused = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((50, 4), (4, 3), (3,))
    )
    for tensor in (rows, unused):
        tensor.requires_grad_()
    slopes = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    seen: list[int] = []

    def work(rows: Tensor, weight: Tensor, unused: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        return torch.softmax(rows @ weight, dim=1)

    threads(3)
    (same_on_any_threads(work, rows, weight, unused) * slopes).sum().backward()
    found, rows.grad = rows.grad, None
    (torch.softmax(rows @ weight, dim=1) * slopes).sum().backward()
    torch.testing.assert_close(found, rows.grad)
    assert seen == [1] and torch.get_num_threads() == 3 and unused.grad is None and weight.grad is None


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "DE": (DE, {"n_experts": 5}),
    "DERRD": (DERRD, {"n_experts": 3, "k": 4, "n_samples": 4, "candidates": 10}),
    "HTD": (HTD, {}),
    "HTD, prototypes": (HTD, {"topology": "prototypes"}),
    "PCKD": (PCKD, {"n_experts": 3, "candidates": 10, "n_samples": 4}),
}


@pytest.mark.parametrize("temperature", [1.0, 1e-10])
@pytest.mark.parametrize("name", METHODS)
def test_methods_with_experts_have_the_same_bits(name: str, temperature: float, threads: Callable[[int], None]) -> None:
    kind, options = METHODS[name]
    gradients = []
    for n in (1, 2, 3):
        threads(n)
        student, teacher = random_pair(n_users=3000, n_items=2000, width=20, teacher_width=180)
        distiller = kind(student, teacher, **options, end_temperature=temperature, anneal=1.0)
        distiller.reduction = "sum"
        distiller.begin_training(Ragged.from_pairs(*(torch.arange(1, 2000).numpy() for _ in range(2)), 3001))
        distiller.begin_epoch(0)
        with repeatable(True):
            distiller(_batch(distiller, 2048)).backward()
        weights = {"users": student.users, "items": student.items, **dict(distiller.named_parameters())}
        gradients.append({key: weight.grad for key, weight in weights.items() if weight.grad is not None})
    assert len(gradients[0]) > 6
    for other in gradients[1:]:
        assert all(torch.equal(gradients[0][key], other[key]) for key in gradients[0]), name


def test_experts_that_some_rows_choose_have_the_same_bits(threads: Callable[[int], None]) -> None:
    generator = torch.Generator().manual_seed(0)
    experts, vectors = ExpertMixture(5, 8, 60, generator), torch.randn(700, 8, generator=generator).requires_grad_()
    selection = (torch.randn(700, 5, generator=generator) / 0.08).softmax(1).requires_grad_()
    found = []
    for n in (1, 2, 3):
        threads(n)
        out = experts(vectors, selection)
        found.append([out, *torch.autograd.grad(out.square().sum(), [vectors, selection, *experts.parameters()][:6])])
    assert all(torch.equal(one, another) for other in found[1:] for one, another in zip(found[0], other, strict=True))


def _batch(distiller: Any, n: int) -> Any:
    generator = torch.Generator().manual_seed(4)
    rows, positives, negatives = (torch.randint(1, 1999, (n,), generator=generator) for _ in range(3))
    sets = SetScores(distiller, distiller.teacher_scores)
    sets.ask_teacher()
    return sets.batch_of(rows, positives, negatives, rows)


@pytest.mark.parametrize("few", [False, True])
def test_nan_in_the_choice_of_experts_comes_through(few: bool) -> None:
    experts = ExpertMixture(4, 3, 5, torch.Generator().manual_seed(0))
    selection = torch.zeros(6, 4)
    selection[:, : 1 if few else 3] = 1.0
    selection[2] = torch.nan
    out = experts(torch.randn(6, 3), selection)
    assert bool(out[2].isnan().all()) and bool(out[[0, 1, 3, 4, 5]].isfinite().all())


@pytest.mark.parametrize("n", [37, 101, 1000])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_top_k_sees_nan_and_inf_in_every_column(n: int, value: float) -> None:
    for column in (0, n // 2, n - 2, n - 1):
        scores = torch.arange(2 * n, dtype=torch.float32).view(2, n)
        scores[1, column] = value
        ids, values = top_k(scores, 3)
        assert int(ids[1, 0]) == column and _same(values[1, 0], torch.tensor(value)), column
        assert ids[0].tolist() == [n - 1, n - 2, n - 3]


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(one == other) or bool(one.isnan() & other.isnan())
