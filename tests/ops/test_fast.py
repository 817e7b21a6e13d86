"""Compiled kernels: the results of the plain paths, and a way back where they do not serve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_kd.ops import compiled as compiled_ops
from recbole_kd.ops import topk
from recbole_kd.ops.membership import is_in
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import Outside, first_distinct, sample_without_replacement

CELLS = [-torch.inf, -3e38, -2.5, -1.0, -1e-38, -0.0, 0.0, 1e-38, 0.5, 1.0, 3e38]

pytestmark = pytest.mark.skipif(compiled_ops.kernels() is None, reason="numba is not installed")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_top_k_equals_a_stable_sort(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 80))
    k = data.draw(st.integers(1, n))
    few = data.draw(st.lists(st.sampled_from(CELLS), min_size=1, max_size=6))
    rows = data.draw(st.lists(st.lists(st.sampled_from(few), min_size=n, max_size=n), min_size=1, max_size=3))
    found = compiled_ops.top_k(torch.tensor(rows), k)
    assert found is not None
    for row, ids, values in zip(torch.tensor(rows).tolist(), found[0].tolist(), found[1].tolist(), strict=True):
        assert ids == sorted(range(n), key=lambda i: (-row[i], i))[:k]
        assert values == [row[i] for i in ids]


@pytest.mark.parametrize("k", [1, 7, 50, 200])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4, 1e30])
def test_top_k_equals_the_plain_path(k: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(k)
    scores = scale * (torch.randn(40, 8, generator=generator) @ torch.randn(8, 5003, generator=generator))
    scores[torch.rand(scores.shape, generator=generator) < 0.01] = -torch.inf
    scores[3] = scores[3].sign()
    scores[4, k // 2 :] = -torch.inf
    found = compiled_ops.top_k(scores, k)
    assert found is not None
    ids, values = topk._plain_top_k(scores, k)
    assert torch.equal(found[0], ids) and torch.equal(found[1], values)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_the_kernel_cannot_order_takes_the_plain_path(value: float) -> None:
    scores = torch.randn(3, 400)
    scores[1, 77] = value
    assert compiled_ops.top_k(scores, 5) is None
    ids, _ = topk.top_k(scores, 5)
    assert ids[1, 0] == 77
    assert compiled_ops.top_k(scores.double(), 5) is None


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_membership_equals_sets(data: st.DataObject) -> None:
    n_rows, n, m = (data.draw(st.integers(0, most)) for most in (4, 6, 6))
    ids, others = st.integers(0, 9), st.integers(-1, 9)
    items = torch.tensor(
        data.draw(st.lists(st.lists(ids, min_size=n, max_size=n), min_size=n_rows, max_size=n_rows)), dtype=torch.int64
    )
    other = torch.tensor(
        data.draw(st.lists(st.lists(others, min_size=m, max_size=m), min_size=n_rows, max_size=n_rows)),
        dtype=torch.int64,
    )
    items, other = items.view(n_rows, n), other.view(n_rows, m)
    found = compiled_ops.is_in(items, other)
    assert found is not None
    assert found.tolist() == [
        [i in set(row) for i in mine] for mine, row in zip(items.tolist(), other.tolist(), strict=True)
    ]


def test_without_numba_the_results_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, items = torch.randn(20, 900, generator=generator), torch.randint(0, 50, (20, 30), generator=generator)

    def results() -> list[torch.Tensor]:
        draws = torch.Generator().manual_seed(1)
        return [
            *topk.top_k(scores, 11),
            is_in(items[:, :10], items[:, 10:]),
            sample_without_replacement(scores, 13, draws),
        ]

    found = results()
    calls: list[str] = []
    monkeypatch.setattr(compiled_ops, "kernels", lambda: calls.append("asked"))
    plain = results()
    assert len(calls) == 3
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def draws_outside(seed: int, n_rows: int, n_items: int, n: int) -> list[torch.Tensor]:
    """Return values of repeated draws, the first different ones, and items outside of random sets.

    Some of the sets leave nothing outside.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, n_items, (n_rows, 2 * n), generator=generator)
    rows = torch.rand(n_rows, n_items - 1, generator=generator) < torch.rand(n_rows, 1, generator=generator).round(
        decimals=1
    )
    counts = rows.sum(1)
    sets = Ragged(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), rows.nonzero()[:, 1] + 1)
    outside, queries = Outside(sets, n_items), torch.randperm(n_rows, generator=generator)
    return [
        *first_distinct(drawn, n),
        outside.draw(queries, n, generator),
        outside.draw_distinct(queries, n, generator),
    ]


@pytest.mark.parametrize("shape", [(1, 2, 1), (7, 30, 5), (40, 400, 9), (3, 5, 8)])
def test_draws_are_those_of_the_plain_path(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    found = [draws_outside(seed, *shape) for seed in range(5)]
    calls: list[str] = []
    monkeypatch.setattr(compiled_ops, "kernels", lambda: calls.append("asked"))
    plain = [draws_outside(seed, *shape) for seed in range(5)]
    assert len(calls) >= 15
    assert all(
        torch.equal(a, b) for ours, theirs in zip(found, plain, strict=True) for a, b in zip(ours, theirs, strict=True)
    )


def test_values_too_high_for_a_table_and_negative_ones_take_the_plain_path() -> None:
    for drawn in (
        torch.tensor([[compiled_ops.MOST_VALUES, 3]]),
        torch.tensor([[-1, 3]]),
        torch.empty(0, 2, dtype=torch.int64),
    ):
        assert compiled_ops.first_distinct(drawn, 2) is None
    assert first_distinct(torch.tensor([[compiled_ops.MOST_VALUES, 3, 3]]), 2)[0].tolist() == [
        [compiled_ops.MOST_VALUES, 3]
    ]


def test_strided_and_gradient_carrying_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(300, 6, requires_grad=True).T
    ids, values = topk.top_k(scores, 4)
    expected = np.sort(scores.detach().numpy(), axis=1)[:, ::-1][:, :4]
    assert np.array_equal(values.detach().numpy(), expected)
    assert torch.equal(scores.gather(1, ids), values)
