"""The contribution of unlisted items: the compiled pass against matrix products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_kd.losses.unlisted_logsumexp import ListedRows, rest_above
from recbole_kd.ops import compiled as compiled_ops
from recbole_kd.ops import compiled_catalogue
from recbole_kd.ops.ragged import Ragged

compiled = pytest.mark.skipif(compiled_ops.kernels() is None, reason="numba is not installed")


@pytest.fixture(autouse=True)
def at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_catalogue, "SCORES_FROM", 0)


def case(n: int, n_items: int, d: int, scale: float = 0.3) -> tuple[list[Tensor], Tensor, ListedRows]:
    """Vectors of n queries and of all items, logs of denominators; factors; listed and excluded items.

    Query 0, if it is there, leaves no item to the rest.
    """
    generator = torch.Generator().manual_seed(n_items)
    vectors, items = (scale * torch.randn(size, d, generator=generator) for size in (n, n_items))
    below, factors = torch.randn(n, 5, generator=generator) + 1, torch.rand(n, 5, generator=generator)
    apart = torch.rand(n + 2, n_items, generator=generator) < 0.2
    apart[:, 0], apart[0, 1:] = False, True
    counts = apart.sum(1)
    sets = Ragged(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), apart.nonzero()[:, 1])
    listed = torch.randint(0, n_items, (n, 4), generator=generator)
    rows = ListedRows(torch.randperm(n + 2, generator=generator)[:n], listed, sets)
    return [table.requires_grad_() for table in (vectors, items, below)], factors, rows


def total_and_gradients(tables: list[Tensor], factors: Tensor, rows: ListedRows) -> list[Tensor]:
    total = rest_above(*tables[:2], rows, tables[2], factors)
    return [total.detach(), *torch.autograd.grad(-0.5 * total, tables)]


@compiled
@pytest.mark.parametrize(("n", "n_items", "d"), [(1, 17, 3), (5, 100, 20), (37, 48, 1), (70, 1000, 33)])
def test_compiled_equals_matrix_products(n: int, n_items: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = case(n, n_items, d)
    found = total_and_gradients(*given)
    monkeypatch.setattr(compiled_catalogue, "kernels", lambda: None)
    for ours, theirs in zip(found, total_and_gradients(*given), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6 * float(theirs.abs().max()))


@compiled
@pytest.mark.parametrize("scale", [30.0, torch.nan])
def test_scores_that_leave_the_range_take_matrix_products(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(compiled_catalogue, "rest_above", lambda *_: calls.append(1))
    tables, factors, rows = case(3, 40, 8, scale)
    total = rest_above(*tables[:2], rows, tables[2], factors)
    assert not calls and bool(total.isfinite()) == (scale == 30.0)


@compiled
def test_two_threads_give_the_same_bits() -> None:
    given, before = case(23, 200, 20), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(total_and_gradients(*given))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_device_excludes_the_same_items_without_being_asked_for_their_number() -> None:
    _, _, rows = case(5, 30, 3)
    pairs = set(zip(*(part.tolist() for part in rows.excluded.pairs(rows.queries)), strict=True))
    found: set[tuple[int, int]] = set()
    for part, row, item in rows._padded_chunks(2, int(rows.excluded.counts().amax())):
        assert 0 < part.stop - part.start <= 2
        found |= set(zip((row + part.start).tolist(), item.tolist(), strict=True))
    assert {(row, item) for row, item in found if item} == pairs
