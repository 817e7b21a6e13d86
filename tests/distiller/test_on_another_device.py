"""A training step on another device: no copy to the host, no Python number read from a tensor.

The device is ``meta``, whose tensors hold no values: whatever asks for one (``.item()``, ``bool()``, ``.cpu()``,
``.numpy()``, a loop over rows) fails, and code for CPUs is not taken.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recbole_kd.distiller import embedding_base
from recbole_kd.distiller.base import DistillBatch
from recbole_kd.distiller.own_loop import KDTerm
from recbole_kd.distiller.registry import distiller_class
from recbole_kd.distiller.set_scores import SetScores
from recbole_kd.losses.embedding import gumbel_noise
from recbole_kd.scoring.tables import TableScorer
from recbole_kd.teacher.kept_rows import KeptRows
from tests.support.method_cases import METHODS, make_teacher, small_options
from tests.support.own_loop_cases import N_ITEMS, N_USERS, batch, interactions, student

DISTINCT = {"DE", "DERRD", "FTD", "FreqD", "HTD", "PCKD"}
"""Methods on the distinct entities of a batch, whose number a device has to tell the host."""

READS = {
    "FreqD": "the lengths of the rows of its graph",
}
"""Methods whose step reads something else from the device, and what."""

CASES = [
    pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=f"reads {READS[name]}")) if name in READS else name
    for name in METHODS
]


class Mover:
    """Moves every tensor that an object of ours holds to ``meta``, in place where it can."""

    def __init__(self) -> None:
        self._moved: dict[int, tuple[Any, Any]] = {}

    def __call__(self, value: Any) -> Any:
        if id(value) not in self._moved:
            self._moved[id(value)] = (value, value)  # kept, because the id of a dead object is reused
            self._moved[id(value)] = (value, self._move(value))
        return self._moved[id(value)][1]

    def _move(self, value: Any) -> Any:
        if isinstance(value, nn.Parameter):
            return nn.Parameter(value.detach().to("meta"), value.requires_grad)
        if isinstance(value, Tensor):
            return value.detach().to("meta")
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self, value))
        if isinstance(value, list | tuple):
            return type(value)(map(self, value))
        if isinstance(value, dict):
            value.update({key: self(item) for key, item in value.items()})
        elif type(value).__module__.startswith(("recbole_kd", "torch.nn")):
            for name, item in list(getattr(value, "__dict__", {}).items()):
                moved = self(item)
                if moved is not item:
                    object.__setattr__(value, name, moved)
        return value


@pytest.fixture(autouse=True)
def what_meta_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give ``meta`` what a real device has: autocast, a generator, and the number of distinct entities."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(embedding_base, "gumbel_noise", lambda *given: gumbel_noise(*given).to("meta"))
    monkeypatch.setattr(KeptRows, "of", lambda *_, **__: None)  # of a CPU alone


def step(name: str) -> tuple[Tensor, list[nn.Parameter]]:
    """Return the loss of one step on ``meta`` and the student's tables."""
    cls = distiller_class(name)
    users, items = student()
    teacher = make_teacher(cls, N_USERS, N_ITEMS)[0]
    distiller = cls(TableScorer(users, items), teacher, **small_options(name), seed=0)
    KDTerm(distiller, interactions()).begin_epoch(0)
    sets = SetScores(distiller, teacher)
    sets.ask_teacher()
    rows, positives, negatives = batch()
    made: DistillBatch = sets.batch_of(rows, positives, negatives, rows)
    move = Mover()
    move(distiller)
    return distiller(move(replace(made))), [users.weight, items.weight]


@pytest.mark.parametrize("name", CASES)
def test_a_step_reads_nothing_from_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in DISTINCT:

        def unique(ids: Tensor, return_inverse: bool = False) -> Any:
            places = torch.zeros_like(ids)
            return (ids.flatten(), places) if return_inverse else ids.flatten()

        monkeypatch.setattr(Tensor, "unique", unique)
    loss, tables = step(name)
    loss.backward()
    assert loss.device.type == "meta"
    assert any(table.grad is not None and table.grad.device.type == "meta" for table in tables)


@pytest.mark.parametrize("read", [Tensor.item, bool, Tensor.cpu, Tensor.numpy, Tensor.tolist, torch.nonzero])
def test_the_device_has_no_values(read: Any) -> None:
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        read(torch.ones(1, device="meta"))
