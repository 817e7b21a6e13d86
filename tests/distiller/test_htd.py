"""HTD: equal to the published class; pairs by tiles; what its options do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_kd.distiller.htd import HTD
from recbole_kd.distiller.registry import check_options
from recbole_kd.errors import ConfigError
from recbole_kd.losses import embedding as module
from recbole_kd.losses.embedding import group_means, grouped_topology_distance, masked_cosines, unit_rows
from tests.support.embedding_stubs import (
    assert_equals_published,
    batch_of_rows,
    give_noise,
    load_networks,
    random_pair,
    reference,
    vector_pair,
)


@pytest.mark.parametrize("case", reference("htd"), ids=["start", "epoch-100", "prototypes", "extreme"])
def test_htd_equals_the_published_class(case: dict[str, Any]) -> None:
    student, teacher = vector_pair(case)
    n_groups = len(case["user"]["w1"])
    distiller = HTD(student, teacher, n_groups=n_groups, alpha=case["alpha"], topology=case["topology"])  # type: ignore[arg-type]
    load_networks(distiller.user_experts, case["user"])
    load_networks(distiller.item_experts, case["item"])
    give_noise(distiller, case)
    distiller.begin_epoch(case["epoch"])
    # published, the prototypes among each other have no gradient
    assert_equals_published(distiller, student, case, gradient=case["topology"] == "entities")


def naive(student: Tensor, teacher: Tensor, groups: Tensor) -> Tensor:
    return _naive_of_units(unit_rows(student), unit_rows(teacher), groups)


def _naive_of_units(student: Tensor, teacher: Tensor, groups: Tensor) -> Tensor:
    own, other = (vectors @ vectors.T for vectors in (student, teacher))
    counts = (groups.unsqueeze(1) == groups) & (other > 0)
    return ((own - other).square() * counts).sum()


@pytest.mark.parametrize("tile", [1, 4, 7, 512])
@pytest.mark.parametrize("n_groups", [1, 3, 40])
def test_pairs_by_tiles_equal_the_full_matrices(tile: int, n_groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", tile)
    generator = torch.Generator().manual_seed(n_groups)
    student = torch.randn(30, 3, generator=generator, requires_grad=True)
    teacher = torch.randn(30, 6, generator=generator)
    groups = torch.randint(0, n_groups, (30,), generator=generator)
    found, expected = (function(student, teacher, groups) for function in (grouped_topology_distance, naive))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    pair = (torch.autograd.grad(value * 3, student)[0] for value in (found, expected))
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)
    rows = unit_rows(student).detach().requires_grad_()
    masked, gradient = masked_cosines(rows.detach(), unit_rows(teacher), groups)  # as on another device
    torch.testing.assert_close(masked, expected.detach(), rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(_naive_of_units(rows, unit_rows(teacher), groups), rows)[0]
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-4)


def test_means_of_groups_with_an_empty_one() -> None:
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert group_means(vectors, torch.tensor([2, 0, 2]), 4).tolist() == [[3, 4], [0, 0], [3, 4], [0, 0]]


def test_groups_of_users_and_items_are_apart_and_follow_the_teacher() -> None:
    student, teacher = random_pair()
    distiller = HTD(student, teacher, n_groups=3)  # type: ignore[arg-type]
    ids = torch.arange(1, 13)
    users, items = distiller.groups("users", ids), distiller.groups("items", ids)
    assert int(users.max()) < 3 <= int(items.min()) and int(items.max()) < 6
    logits = distiller.user_experts.logits(teacher.embeddings()[0][ids])
    assert torch.equal(users, logits.argmax(1))


def test_prototypes_have_a_gradient_among_each_other_only() -> None:
    batch = batch_of_rows([1, 2, 3], [4, 5, 6], [7, 8, 9])
    grads = {}
    for topology in ("entities", "prototypes"):
        student, teacher = random_pair()
        # one group a side: without its own gradient the upper level of prototypes would be constant
        distiller = HTD(student, teacher, n_groups=1, alpha=1.0, topology=topology)  # type: ignore[arg-type]
        distiller(batch).backward()
        grads[topology] = student.users.grad
    own, teacher_vectors = student.tables(), teacher.embeddings()
    ids = (torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6, 7, 8, 9]))
    vectors, others = (torch.cat([t[i] for t, i in zip(tables, ids, strict=True)]) for tables in (own, teacher_vectors))
    groups = torch.tensor([0] * 3 + [1] * 6)
    within = torch.autograd.grad(naive(vectors, others, groups), student.users)[0]
    for topology, grad in grads.items():
        assert grad is not None and not torch.allclose(grad * 3, within, rtol=1e-3), topology
    assert not torch.allclose(grads["entities"], grads["prototypes"])  # type: ignore[arg-type]


def test_alpha_one_trains_no_network() -> None:
    distiller = HTD(*random_pair(), n_groups=2, alpha=1.0)  # type: ignore[arg-type]
    distiller(batch_of_rows([1, 2, 3], [4, 5, 6], [7, 8, 9])).backward()
    assert all(p.grad is None for p in distiller.parameters())


@pytest.mark.parametrize(("key", "value"), [("n_groups", 0), ("alpha", -0.1), ("alpha", 1.5), ("alpha", float("nan"))])
def test_options_out_of_range_are_refused_by_name(key: str, value: float) -> None:
    options = {"n_groups": 5, "alpha": 0.5, "end_temperature": 1e-10, "anneal": 1e10, "max_epoch": 1000, key: value}
    with pytest.raises(ConfigError, match=f"kd_{key}={value}"):
        check_options(HTD, options, 10, 10)
