"""FTD: equal to the published class and to the n x n matrices it never makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_kd.distiller.ftd import FTD
from recbole_kd.losses import embedding as module
from recbole_kd.losses.embedding import full_topology_distance, gram_norm, unit_rows
from tests.support.embedding_stubs import assert_equals_published, reference, vector_pair


@pytest.mark.parametrize("case", reference("ftd"), ids=["random-1", "random-2", "small", "extreme"])
def test_ftd_equals_the_published_class(case: dict[str, Any]) -> None:
    student, teacher = vector_pair(case)
    assert_equals_published(FTD(student, teacher), student, case)  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "d_s", "d_t"), [(1, 3, 4), (30, 3, 8), (6, 5, 50)])
def test_distance_and_gradient_equal_the_full_matrices(
    n: int, d_s: int, d_t: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRAM_COLUMNS", 3)
    generator = torch.Generator().manual_seed(n)
    student = torch.randn(n, d_s, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = unit_rows(torch.randn(n, d_t, generator=generator, dtype=torch.float64))
    own = unit_rows(student)
    expected = (own @ own.T - teacher @ teacher.T).square().sum()
    found = full_topology_distance(student, teacher)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    pair = (torch.autograd.grad(value, student)[0] for value in (found, expected))
    torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-9)


def test_gram_norm_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(20, 11, generator=torch.Generator().manual_seed(0))
    whole = (rows.T @ rows).square().sum()
    for columns in (1, 4, 11, 50):
        monkeypatch.setattr(module, "GRAM_COLUMNS", columns)
        torch.testing.assert_close(gram_norm(rows), whole)


def test_equal_topologies_cost_nothing_and_zero_vectors_are_no_error() -> None:
    teacher = unit_rows(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
    assert float(full_topology_distance(3 * teacher @ rotation, teacher)) == pytest.approx(0, abs=1e-4)
    student = torch.zeros(9, 4, requires_grad=True)
    loss = full_topology_distance(student, teacher)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float((teacher @ teacher.T).square().sum()), rel=1e-5)
    assert student.grad is not None and bool(student.grad.isfinite().all())
