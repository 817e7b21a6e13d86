"""A teacher's scores of all items that are computed once: the same numbers, and each row once."""

from __future__ import annotations

import pytest
import torch

from recbole_kd.teacher import kept_rows
from recbole_kd.teacher.kept_rows import KeptRows
from recbole_kd.teacher.stores.dense import DenseScores
from recbole_kd.teacher.stores.factors import FactorScores

CPU = torch.device("cpu")


def test_rows_are_the_teachers_and_each_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = FactorScores(torch.randn(30, 4), torch.randn(9, 4))
    asked: list[int] = []
    plain = teacher.full
    monkeypatch.setattr(teacher, "full", lambda queries: asked.extend(queries.tolist()) or plain(queries))
    monkeypatch.setattr(kept_rows, "QUERIES_AT_ONCE", 4)
    kept = KeptRows.of(teacher, CPU)
    assert kept is not None
    for queries in (torch.tensor([3, 7, 20, 1, 29, 8]), torch.tensor([7, 0, 29])):
        kept.compute(queries)
        torch.testing.assert_close(kept.rows(queries), plain(queries)[:, 1:])
    assert sorted(asked) == [0, 1, 3, 7, 8, 20, 29]


def test_a_table_over_the_budget_or_in_memory_is_not_kept_again(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = FactorScores(torch.randn(30, 4), torch.randn(9, 4))
    assert KeptRows.of(DenseScores(torch.randn(30, 9)), CPU) is None
    monkeypatch.setattr(kept_rows, "KEPT_BYTES", 4 * 30 * 8)
    assert KeptRows.of(teacher, CPU) is not None
    monkeypatch.setattr(kept_rows, "KEPT_BYTES", 4 * 30 * 8 - 1)
    assert KeptRows.of(teacher, CPU) is None
