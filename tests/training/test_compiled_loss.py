"""``kd_compile``: the compiled KD loss is the plain one up to rounding, and a missing compiler is said at once."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_kd.distiller.own_loop import KDTerm
from recbole_kd.distiller.registry import distiller_class
from recbole_kd.scoring.tables import TableScorer
from recbole_kd.training.compiled_loss import compile_loss
from recbole_kd.training.gradient_ratio import gradient_norm
from tests.support.method_cases import make_teacher, small_options
from tests.support.own_loop_cases import N_ITEMS, N_USERS, batch, interactions, student
from tests.support.runs import refusal, run

TOLERANCE = 1e-5
"""Largest difference of a loss, and of a gradient beside its largest entry."""


def steps(name: str, compiled: bool) -> list[tuple[Tensor, ...]]:
    """Return the loss and the gradients of both tables, of batches of two sizes."""
    cls = distiller_class(name)
    users, items = student()
    distiller = cls(TableScorer(users, items), make_teacher(cls, N_USERS, N_ITEMS)[0], **small_options(name), seed=0)
    if compiled:
        compile_loss(distiller)
    term = KDTerm(distiller, interactions())
    term.begin_epoch(0)
    found = []
    for size in (20, 11):
        loss = term(*(part[:size] for part in batch()))
        norm = gradient_norm(loss, [users.weight, items.weight])  # a pass before that of the step, as in a run
        found.append((loss.detach(), norm, *torch.autograd.grad(loss, [users.weight, items.weight])))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CD", "CE", "RCEKD", "RRD"])
def test_the_compiled_loss_is_the_plain_one(name: str) -> None:
    torch.compiler.reset()
    for plain, compiled in zip(steps(name, False), steps(name, True), strict=True):
        for ours, theirs in zip(compiled, plain, strict=True):
            assert float((ours - theirs).abs().max()) <= TOLERANCE * max(1.0, float(theirs.abs().max()))


@pytest.mark.slow
def test_a_run_reports_the_same_figures(tmp_path: Path) -> None:
    torch.compiler.reset()
    changes = {"kd": "CE", "kd_n_samples": None, "kd_candidates": None, "kd_compare": "False", "epochs": "2"}
    plain, compiled = (run(tmp_path, f"--kd_compile={value}", **changes) for value in ("False", "True"))
    assert compiled["distilled"]["kd_loss"] == pytest.approx(plain["distilled"]["kd_loss"], rel=1e-4)
    assert compiled["distilled"]["test"] == pytest.approx(plain["distilled"]["test"], abs=0.02)


@pytest.mark.slow  # for the import of the compiler
def test_a_compiled_distiller_is_copied_and_pickled_as_a_plain_one() -> None:
    """A process that trains along gets the job by pickle. Nothing is compiled before the first batch."""
    cls = distiller_class("CE")
    distiller: Any = cls(TableScorer(*student()), make_teacher(cls, N_USERS, N_ITEMS)[0], k=3)
    compile_loss(distiller)
    assert distiller._compiled_call_impl is not None
    assert copy.deepcopy(distiller)._compiled_call_impl is None
    assert pickle.loads(pickle.dumps(distiller)).k == 3


def test_a_missing_compiler_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    said = refusal(capsys, tmp_path, "--kd_compile=True")
    assert said.startswith("error: kd_compile=True needs a C++ compiler, and no-such-compiler is not installed")
    assert "CXX" in said and not (tmp_path / "saved").exists() and not (tmp_path / "cache").exists()
