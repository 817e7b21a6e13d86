"""Ragged lists of items."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_kd.ragged import Ragged


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
