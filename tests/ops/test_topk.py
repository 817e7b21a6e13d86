"""Exact top-k: one rule for ties, short rows, blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_kd.ops import compiled, topk
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import blocks, top_k, top_k_in_blocks

tied_rows = st.integers(2, 12).flatmap(
    lambda n: st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=n, max_size=n), min_size=1, max_size=5)
)


@settings(max_examples=200, deadline=None)
@given(rows=tied_rows, data=st.data())
def test_ties_are_ordered_by_id_also_at_the_boundary(rows: list[list[float]], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(rows[0])))
    ids, values = top_k(torch.tensor(rows), k)
    for row, found, scores in zip(rows, ids.tolist(), values.tolist(), strict=True):
        expected = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
        assert found == expected and scores == [row[i] for i in expected]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_top_k_in_blocks_equals_python(data: st.DataObject) -> None:
    """Ties, exclusion, short rows, queries in any order and more than once, at every size of block."""
    n_rows, n_items, k = (data.draw(st.integers(least, most)) for least, most in ((1, 5), (2, 9), (1, 11)))
    cells = st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=n_items, max_size=n_items)
    table = data.draw(st.lists(cells, min_size=n_rows, max_size=n_rows))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, n_rows - 1), st.integers(0, n_items - 1)), max_size=20))
    queries = data.draw(st.lists(st.integers(0, n_rows - 1), max_size=8))
    excluded = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    exclude = Ragged.from_pairs(excluded[:, 0], excluded[:, 1], n_rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "BLOCK_BYTES", data.draw(st.sampled_from([1, 4 * n_items * 2, 2**26])))
        ids, values = top_k_in_blocks(
            full(torch.tensor(table)), torch.tensor(queries, dtype=torch.int64), n_items, k, exclude
        )
    for query, found, scores in zip(queries, ids.tolist(), values.tolist(), strict=True):
        left = [i for i in range(1, n_items) if (query, i) not in pairs]
        best = sorted(left, key=lambda i: (-table[query][i], i))[:k]
        assert found == best + [0] * (k - len(best))
        assert scores == [table[query][i] for i in best] + [-np.inf] * (k - len(best))


def full(table: Tensor) -> topk.Callable[[Tensor], Tensor]:
    return lambda queries: table[queries].clone()


@pytest.mark.parametrize("block_bytes", [1, 200, 2**26])
def test_blocks_do_not_change_the_result(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(17, 23, generator=torch.Generator().manual_seed(0))
    widths: list[int] = []

    def counted(queries: Tensor) -> Tensor:
        widths.append(len(queries))
        return table[queries].clone()

    monkeypatch.setattr(topk, "BLOCK_BYTES", block_bytes)
    ids, values = top_k_in_blocks(counted, torch.arange(17), 23, 5)
    assert max(widths) == max(1, min(17, block_bytes // (4 * 23)))
    for row in range(17):
        order = [i for i in table[row].argsort(descending=True).tolist() if i != 0][:5]
        assert ids[row].tolist() == order
        torch.testing.assert_close(values[row], table[row][order])


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "block_bytes"), [(0, 5, 100), (7, 5, 1), (7, 5, 40), (7, 5, 10**6), (3, 0, 8)]
)
def test_blocks_cover_every_row_once_within_the_budget(
    n_rows: int, n_columns: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topk, "BLOCK_BYTES", block_bytes)
    slices = list(blocks(n_rows, n_columns))
    assert [row for rows in slices for row in range(rows.start, rows.stop)] == list(range(n_rows))
    assert all((rows.stop - rows.start) * 4 * n_columns <= max(block_bytes, 4 * n_columns) for rows in slices)


def test_short_rows_end_in_the_pad_without_a_score() -> None:
    table = torch.arange(12.0).view(2, 6)
    exclude = Ragged.from_pairs(torch.tensor([0, 0, 0, 1]).numpy(), torch.tensor([1, 2, 5, 3]).numpy(), 2)
    ids, values = top_k_in_blocks(full(table), torch.arange(2), 6, 8, exclude)
    assert ids.tolist() == [[4, 3, 0, 0, 0, 0, 0, 0], [5, 4, 2, 1, 0, 0, 0, 0]]
    assert values[0].tolist()[:2] == [4.0, 3.0] and bool((values[0, 2:] == -torch.inf).all())


def test_the_pad_is_never_listed() -> None:
    table = torch.zeros(3, 5)
    table[:, 0] = 100
    assert 0 not in top_k_in_blocks(full(table), torch.arange(3), 5, 4)[0]


# -- pruning by groups -------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_pruning_changes_nothing(data: st.DataObject) -> None:
    """Catalogues of 16 k and more items, ties within and across groups, rows with hardly a finite score."""
    k = data.draw(st.integers(1, 4))
    n_items = data.draw(st.integers(topk.PRUNE_FROM * k, topk.PRUNE_FROM * k + 40))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    levels = data.draw(st.sampled_from([1, 2, 5, 10**6]))  # few levels: many ties
    scores = torch.randint(0, levels, (6, n_items), generator=generator).float()
    scores[torch.rand(6, n_items, generator=generator) < data.draw(st.sampled_from([0.0, 0.5, 0.97]))] = -torch.inf
    ids, values = topk._pruned_top_k(scores, k)
    expected_ids, expected_values = topk._plain_top_k(scores, k)
    assert torch.equal(ids, expected_ids) and torch.equal(values, expected_values)


def test_large_catalogues_are_pruned_and_small_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    monkeypatch.setattr(topk.compiled, "kernels", lambda: None)
    plain = topk._pruned_top_k
    monkeypatch.setattr(topk, "_pruned_top_k", lambda scores, k: called.append(scores.shape[1]) or plain(scores, k))
    for n_items in (31, 32, 500):
        top_k(torch.randn(3, n_items), 2)
    assert called == [32, 500]


def test_products_of_a_thread_share_one_buffer() -> None:
    queries, items = torch.randn(9, 4), torch.randn(50, 4)
    full = topk.DotProducts(queries, items)
    first = full(torch.arange(5))
    torch.testing.assert_close(first, queries[:5] @ items.T)
    second = full(torch.tensor([8, 2]))
    torch.testing.assert_close(second, queries[[8, 2]] @ items.T)
    assert second.data_ptr() == first.data_ptr()


# -- dot products that are not written ---------------------------------------------------------------------------------


@pytest.mark.skipif(compiled.kernels() is None, reason="numba is not installed")
@pytest.mark.parametrize(
    ("n_items", "d", "k"), [(400, 1, 7), (2000, 20, 1), (3001, 20, 50), (5003, 33, 200), (16, 5, 1)]
)
def test_the_fused_ranking_equals_the_plain_one(n_items: int, d: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few levels of integers: exact products, many ties; training items left out, queries in any order."""
    generator = torch.Generator().manual_seed(n_items)
    queries, items = (torch.randint(-3, 4, (n, d), generator=generator).float() for n in (41, n_items))
    queries[5], items[7] = 0, 100  # all scores equal; an item that stands out
    asked = torch.randint(0, 41, (37,), generator=generator)
    pairs = [torch.randint(0, n, (600,), generator=generator).numpy() for n in (41, n_items)]
    full_row = np.arange(max(1, n_items - k // 2))  # a query with fewer than k items left
    exclude = Ragged.from_pairs(
        *(np.append(*pair) for pair in zip(pairs, (full_row * 0 + 3, full_row), strict=True)), 41
    )
    products = topk.DotProducts(queries, items)
    for sets in (None, exclude):
        monkeypatch.setattr(topk, "FUSE_FROM", 2**62)
        expected = top_k_in_blocks(products, asked, n_items, k, sets)
        monkeypatch.setattr(topk, "FUSE_FROM", 0)
        found = topk._ranked_products(products, asked, n_items, k, sets)
        assert found is not None
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.skipif(compiled.kernels() is None, reason="numba is not installed")
def test_a_threshold_that_was_guessed_too_high_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """All high scores lie in the sampled panels, or none does: the lists are exact all the same."""
    monkeypatch.setattr(topk, "FUSE_FROM", 0)
    sampled = (torch.arange(4000) // 16) % 12 == 0
    for high in (sampled, ~sampled):
        items = (torch.arange(4000.0) + 10_000 * high).unsqueeze(1)
        found = topk._ranked_products(topk.DotProducts(torch.ones(9, 1), items), torch.arange(9), 4000, 200, None)
        assert found is not None
        expected = items[:, 0].masked_fill(torch.arange(4000) == 0, -torch.inf).topk(200)
        assert torch.equal(found[1], expected.values.expand(9, -1)) and torch.equal(found[0][0], expected.indices)


@pytest.mark.skipif(compiled.kernels() is None, reason="numba is not installed")
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 4e34])
def test_scores_of_any_finite_size_are_ranked(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of the sort, over scores whose span is tiny or nearly leaves float32."""
    monkeypatch.setattr(topk, "FUSE_FROM", 0)
    items = scale * (torch.randperm(4000, generator=torch.Generator().manual_seed(0)) - 2000).float().unsqueeze(1)
    found = topk._ranked_products(topk.DotProducts(torch.ones(5, 1), items), torch.arange(5), 4000, 200, None)
    assert found is not None
    expected = topk._plain_top_k(items.T[:, 1:], 200)
    assert torch.equal(found[1][0], expected[1][0]) and torch.equal(found[0][0], expected[0][0] + 1)


@pytest.mark.skipif(compiled.kernels() is None, reason="numba is not installed")
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38])
def test_products_that_may_not_be_finite_are_ranked_plainly(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "FUSE_FROM", 0)
    queries, items = torch.ones(3, 2), torch.ones(500, 2)
    items[3, 1] = value
    assert topk._ranked_products(topk.DotProducts(queries, items), torch.arange(3), 500, 5, None) is None
    assert (
        topk._ranked_products(topk.DotProducts(queries.double(), items.double()), torch.arange(3), 500, 5, None) is None
    )
