"""Ragged lists of items."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_kd.ops.ragged import Ragged


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=30), st.lists(st.integers(0, 5), max_size=8))
def test_pairs_equal_python(given_pairs: list[tuple[int, int]], rows: list[int]) -> None:
    array = np.array(given_pairs, dtype=np.int64).reshape(-1, 2)
    ragged = Ragged.from_pairs(array[:, 0], array[:, 1], 6)
    by_row = {row: sorted({item for r, item in given_pairs if r == row}) for row in range(6)}
    assert ragged.counts().tolist() == [len(by_row[row]) for row in range(6)]
    position, items = ragged.pairs(torch.tensor(rows, dtype=torch.int64))
    expected = [(place, item) for place, row in enumerate(rows) for item in by_row[row]]
    assert list(zip(position.tolist(), items.tolist(), strict=True)) == expected
    for n in (0, 3):
        first = ragged.first(torch.tensor(rows, dtype=torch.int64), n)
        assert first.shape == (len(rows), n)
        assert first.tolist() == [(by_row[row] + n * [0])[:n] for row in rows]


def test_repeated_pairs_are_kept_once_and_rows_are_sorted() -> None:
    ragged = Ragged.from_pairs(np.array([2, 0, 2, 2, 0]), np.array([7, 3, 1, 7, 3]), 4)
    assert ragged.starts.tolist() == [0, 1, 1, 3, 3] and ragged.items.tolist() == [3, 1, 7]
    assert ragged.counts().tolist() == [1, 0, 2, 0]
    assert ragged.to("cpu").items.dtype == torch.int64


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=30),
    st.lists(st.integers(0, 5), max_size=6),
    st.integers(0, 4),
)
def test_membership_equals_python(given_pairs: list[tuple[int, int]], rows: list[int], width: int) -> None:
    array = np.array(given_pairs, dtype=np.int64).reshape(-1, 2)
    ragged = Ragged.from_pairs(array[:, 0], array[:, 1], 6)
    wanted = torch.randint(0, 14, (len(rows), width), generator=torch.Generator().manual_seed(len(given_pairs)))
    found = ragged.contains(torch.tensor(rows, dtype=torch.int64), wanted)
    assert found.tolist() == [
        [(row, item) in given_pairs for item in items] for row, items in zip(rows, wanted.tolist(), strict=True)
    ]
