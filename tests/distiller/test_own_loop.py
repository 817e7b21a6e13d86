"""Distillation in a training loop of one's own, with two embedding tables and without RecBole."""

from __future__ import annotations

import doctest
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import recbole_kd.distiller
import recbole_kd.losses
import recbole_kd.ops
import recbole_kd.ops.kernels
import recbole_kd.teacher.stores
from recbole_kd.distiller import own_loop
from recbole_kd.distiller.ce import CE
from recbole_kd.distiller.own_loop import KDTerm
from recbole_kd.distiller.rcekd import RCEKD
from recbole_kd.distiller.registry import distiller_class
from recbole_kd.errors import ArgumentError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring import tables as tables_module
from recbole_kd.scoring.tables import TableScorer
from recbole_kd.teacher.stores.factors import FactorScores
from tests.support.fresh import python
from tests.support.method_cases import METHODS, make_teacher, small_options
from tests.support.own_loop_cases import N_ITEMS, N_USERS, WIDTH, batch, interactions, student

CORE = (
    recbole_kd.ops, recbole_kd.ops.kernels, recbole_kd.losses, recbole_kd.teacher.stores, recbole_kd.distiller,
)  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_a_loss_and_gradients(name: str) -> None:
    cls = distiller_class(name)
    users, items = student()
    distiller = cls(TableScorer(users, items), make_teacher(cls, N_USERS, N_ITEMS)[0], **small_options(name), seed=0)
    term = KDTerm(distiller, interactions())
    for epoch in range(2):
        term.begin_epoch(epoch)
        loss = term(*batch())
    assert loss.dim() == 0 and torch.isfinite(loss)
    loss.backward()
    found = [table.weight.grad for table in (users, items) if table.weight.grad is not None]
    assert found and all(torch.isfinite(gradient).all() for gradient in found)
    assert any(gradient.abs().sum() > 0 for gradient in found)


def test_a_loop_of_ones_own_comes_near_its_teacher() -> None:
    """The lists of the student become those of the teacher."""
    torch.manual_seed(0)
    users, items = student()
    teacher = FactorScores(torch.randn(N_USERS, WIDTH), torch.randn(N_ITEMS, WIDTH))
    scorer = TableScorer(users, items)
    term = KDTerm(RCEKD(scorer, teacher, k=5, n_samples=5, candidates=10), interactions())
    optimiser = torch.optim.Adam([*users.parameters(), *items.parameters()], lr=0.05)
    everybody = torch.arange(1, N_USERS)
    wanted = teacher.top_k(everybody, 5)[0]

    def shared() -> float:
        found = scorer.top_k(everybody, 5)[0]
        return (found.unsqueeze(2) == wanted.unsqueeze(1)).any(2).double().mean().item()

    before = shared()
    for epoch in range(60):
        term.begin_epoch(epoch)
        optimiser.zero_grad()
        term(everybody).backward()
        optimiser.step()
    assert before < 0.4 and shared() > 0.7


def test_the_scores_of_tables_are_their_products() -> None:
    users, items = student()
    scorer = TableScorer(users, lambda: items.weight * 2)
    wanted = users.weight @ (items.weight * 2).T
    queries, chosen = torch.tensor([3, 1]), torch.tensor([[2, 5], [7, 2]])
    torch.testing.assert_close(scorer.full(queries), wanted[queries])
    torch.testing.assert_close(scorer.at(queries, chosen), wanted[queries].gather(1, chosen))
    ids, scores = scorer.top_k(queries, 3)
    best = wanted[queries][:, 1:].topk(3)
    torch.testing.assert_close(scores, best.values)
    assert torch.equal(ids, best.indices + 1) and not scores.requires_grad
    with scorer.frozen():
        before = scorer.full(queries)
        with torch.no_grad():
            items.weight.add_(1.0)
        assert not before.requires_grad and torch.equal(scorer.full(queries), before)
    assert scorer.full(queries).requires_grad and not torch.equal(scorer.full(queries), before)


def test_what_does_not_fit_is_refused() -> None:
    users, items = student()
    with pytest.raises(ArgumentError, match=r"tables of \(13, 5\) and \(31, 6\)"):
        TableScorer(users, nn.Embedding(N_ITEMS, 6))
    scorer, teacher = TableScorer(users, items), make_teacher(CE, N_USERS, N_ITEMS)[0]
    with pytest.raises(ArgumentError, match="train_items 12 rows"):
        KDTerm(CE(scorer, teacher, k=3), Ragged.from_pairs(np.array([1]), np.array([1]), 12))
    term = KDTerm(CE(scorer, teacher, k=3), interactions())
    with pytest.raises(ArgumentError, match="call begin_epoch"):
        term(batch()[0])
    of_vectors = distiller_class("DE")(scorer, make_teacher(distiller_class("DE"), N_USERS, N_ITEMS)[0])
    term = KDTerm(of_vectors, interactions())
    term.begin_epoch(0)
    with pytest.raises(ArgumentError, match="DE reads the items of a batch"):
        term(batch()[0])


@pytest.mark.parametrize("module", [own_loop, tables_module], ids=lambda module: module.__name__)
def test_the_examples_run(module: Any) -> None:
    users, items = student()
    names = {
        "torch": torch, "TableScorer": TableScorer, "KDTerm": KDTerm, "CE": CE, "FactorScores": FactorScores,
        "users": users, "items": items, "train_items": interactions(), "teacher_users": torch.randn(N_USERS, 7),
        "teacher_items": torch.randn(N_ITEMS, 7),
    }  # fmt: skip
    failures, tried = doctest.testmod(module, extraglobs=names)
    assert tried > 2 and failures == 0


def test_the_core_runs_without_recbole(tmp_path: Path) -> None:
    """One process without RecBole imports losses, operations, stores and methods, and distils."""
    modules = [
        f"{package.__name__}.{found.name}" for package in CORE for found in pkgutil.iter_modules(package.__path__)
    ]
    assert len(modules) > 60
    code = f"""
import importlib, sys
sys.modules["recbole"] = None
for name in {modules!r}:
    importlib.import_module(name)
import tests.distiller.test_own_loop as tests
tests.test_a_loop_of_ones_own_comes_near_its_teacher()
print("distilled")
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout == "distilled\n", done.stderr
