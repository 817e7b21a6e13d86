"""Draws: their distributions by chi-square on 1e5 draws, and short rows."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from recbole_kd.ops import sampling
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import (
    Outside,
    distinct_below,
    draw_better_positions,
    draw_positions,
    draw_unequal_positions,
    first_distinct,
    reach,
)

DRAWS = 100_000
LEAST_P = 1e-3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fits(drawn: torch.Tensor, probabilities: np.ndarray) -> bool:
    counts = np.bincount(drawn.reshape(-1).numpy(), minlength=len(probabilities))
    assert len(counts) == len(probabilities)
    if len(counts) == 1:
        return True
    return bool(chisquare(counts, probabilities / probabilities.sum() * counts.sum()).pvalue > LEAST_P)


@pytest.mark.parametrize(("length", "tau"), [(5, 2.0), (30, 20.0), (30, 1e4), (1, 3.0)])
def test_places_follow_the_truncated_geometric(length: int, tau: float) -> None:
    drawn = draw_positions(torch.full((DRAWS // 10,), length), 10, tau, seeded())
    assert fits(drawn, np.exp(-np.arange(length) / tau))


def test_places_of_rows_of_different_lengths() -> None:
    lengths = torch.arange(1, 9).repeat_interleave(1000)
    drawn = draw_positions(lengths, 12, 3.0, seeded())
    for length in range(1, 9):
        assert fits(drawn[lengths == length], np.exp(-np.arange(length) / 3.0))


def test_no_draw_goes_beyond_the_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    highest = 1 - 2.0**-24
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, highest))
    for tau in (1.0, 20.0, 60.0):
        last = int(draw_positions(torch.tensor([10**6]), 1, tau, seeded())[0, 0])
        assert last < reach(tau) and last > 0.95 * reach(tau) - 2


@pytest.mark.parametrize(("length", "tau"), [(2, 20.0), (6, 2.0)])
def test_unequal_places_are_pairs_conditional_on_being_different(length: int, tau: float) -> None:
    better, worse = draw_unequal_positions(torch.full((DRAWS // 4,), length), 4, tau, seeded())
    assert (better < worse).all()
    weights = np.exp(-np.arange(length) / tau)
    pairs = list(itertools.combinations(range(length), 2))
    number = {pair: at for at, pair in enumerate(pairs)}
    codes = torch.tensor(
        [number[pair] for pair in zip(better.reshape(-1).tolist(), worse.reshape(-1).tolist(), strict=True)]
    )
    assert fits(codes, np.array([weights[a] * weights[b] for a, b in pairs]))


def test_a_list_without_a_pair_gives_zeros() -> None:
    better, worse = draw_unequal_positions(torch.tensor([0, 1, 2]), 3, 20.0, seeded())
    assert better[:2].tolist() == worse[:2].tolist() == [[0] * 3] * 2
    assert (worse[2] == 1).all()


def test_first_distinct_keeps_the_order_of_the_draw() -> None:
    found, count = first_distinct(torch.tensor([[3, 3, 1, 3, 2], [5, 5, 5, 5, 5], [4, 3, 2, 1, 0]]), 3)
    assert found.tolist() == [[3, 1, 2], [5, -1, -1], [4, 3, 2]] and count.tolist() == [3, 1, 3]


def sets_of_better(length: int, tau: float, n: int) -> dict[tuple[int, ...], float]:
    """Probability of every set of n different places, each the better of two draws, repeats passed over."""
    p = np.exp(-np.arange(length) / tau)
    tail = np.append((p / p.sum())[::-1].cumsum()[::-1], 0)
    better = tail[:-1] ** 2 - tail[1:] ** 2
    result = dict.fromkeys(itertools.combinations(range(length), n), 0.0)
    for sequence in itertools.permutations(range(length), n):
        before = np.append(0.0, better[list(sequence)].cumsum()[:-1])
        result[tuple(sorted(sequence))] += float((better[list(sequence)] / (1 - before)).prod())
    return result


@pytest.mark.parametrize("few_draws", [False, True])
@pytest.mark.parametrize(("length", "tau", "n"), [(6, 100.0, 2), (4, 1.5, 3)])
def test_better_places_follow_cds_sampling(
    length: int, tau: float, n: int, few_draws: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if few_draws:  # Gumbel noise completes every row
        plain = sampling.first_distinct
        monkeypatch.setattr(sampling, "first_distinct", lambda drawn, n: plain(drawn[:, :1], n))
    drawn = draw_better_positions(torch.full((DRAWS,), length), n, tau, seeded()).sort(1).values
    expected = sets_of_better(length, tau, n)
    number = {places: at for at, places in enumerate(expected)}
    assert fits(torch.tensor([number[tuple(row)] for row in drawn.tolist()]), np.array(list(expected.values())))


def test_better_places_of_short_lists() -> None:
    lengths = torch.tensor([0, 1, 3, 5, 50])
    drawn = draw_better_positions(lengths, 5, 10.0, seeded())
    for row, length in zip(drawn.tolist(), lengths.tolist(), strict=True):
        real = [place for place in row if place >= 0]
        assert len(set(real)) == len(real) == min(5, length) and all(place < length for place in real)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 12), limits=st.lists(st.integers(0, 60), min_size=1, max_size=6), seed=st.integers(0, 5))
def test_distinct_numbers_are_distinct_and_as_many_as_there_are(n: int, limits: list[int], seed: int) -> None:
    for row, limit in zip(distinct_below(torch.tensor(limits), n, seeded(seed)).tolist(), limits, strict=True):
        real = [number for number in row if number >= 0]
        assert len(set(real)) == len(real) == min(n, limit) and all(number < limit for number in real)


@pytest.mark.parametrize("limit", [7, 12, 40])  # by sorting noise, at the boundary, by first_distinct
def test_distinct_numbers_are_uniform(limit: int) -> None:
    drawn = distinct_below(torch.full((DRAWS // 3,), limit), 3, seeded())
    for column in drawn.unbind(1) if limit >= 12 else (drawn,):
        assert fits(column, np.ones(limit))
    if limit == 12:
        pairs = drawn[:, 0] * limit + drawn[:, 1]
        counts = np.bincount(pairs.numpy(), minlength=limit**2).reshape(limit, limit)
        assert np.trace(counts) == 0
        assert chisquare(counts[~np.eye(limit, dtype=bool)]).pvalue > LEAST_P


def sets_of(*rows: list[int]) -> Ragged:
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return Ragged.from_pairs(users, np.array(list(itertools.chain(*rows)), dtype=np.int64), len(rows))


def test_outside_lists_exactly_the_other_items() -> None:
    rows = [[], [1, 2, 5], [7], [1, 2, 3, 4, 5, 6, 7], [3, 4, 6, 7]]
    outside = Outside(sets_of(*rows), 8)
    for query, row in enumerate(rows):
        room = int(outside.room[query])
        found = outside.item(torch.tensor([query]), torch.arange(max(room, 1)).unsqueeze(0))[0].tolist()
        assert found[:room] == [item for item in range(1, 8) if item not in row] and room == 7 - len(row)


def test_items_outside_are_uniform() -> None:
    outside = Outside(sets_of([], [1, 2, 5], [8]), 9)
    for draw in (outside.draw, outside.draw_distinct):
        drawn = draw(torch.tensor([1]).repeat(DRAWS // 2), 2, seeded())
        counts = np.bincount(drawn.reshape(-1).numpy(), minlength=9)
        assert counts[[0, 1, 2, 5]].sum() == 0
        assert chisquare(counts[[3, 4, 6, 7, 8]]).pvalue > LEAST_P


def test_nothing_outside() -> None:
    outside = Outside(sets_of([1, 2, 3], [1, 2]), 4)
    queries = torch.tensor([0, 1])
    assert outside.draw(queries, 2, seeded()).tolist() == [[0, 0], [3, 3]]
    assert outside.draw_distinct(queries, 2, seeded()).sort(1).values.tolist() == [[0, 0], [0, 3]]


@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
def test_the_items_of_a_table_are_not_outside(kind: torch.dtype) -> None:
    listed = torch.tensor([[3, 0], [1, 9], [0, 0]], dtype=kind)
    outside = Outside(sets_of([], [2, 5], [1]), 10, listed)
    taken = [{3}, {1, 2, 5, 9}, {1}]
    for query, row in enumerate(taken):
        assert int(outside.room[query]) == 9 - len(row)
        found = outside.item(torch.tensor([query]), torch.arange(9 - len(row)).unsqueeze(0))[0].tolist()
        assert found == [item for item in range(1, 10) if item not in row]


def test_sets_of_many_rows_take_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bytes an item: a sequential student has a long list for each of its training rows."""
    monkeypatch.setattr(sampling, "ROWS_AT_A_TIME", 3)
    listed = torch.tensor([[1, 2, 3], [4, 5, 0], [6, 0, 0], [2, 7, 8], [0, 0, 0]], dtype=torch.int32)
    outside = Outside(sets_of([1], [], [], [9], [3]), 10, listed)
    assert outside.keys.dtype == torch.int32 and outside.starts.tolist() == [0, 3, 5, 6, 10, 11]
    assert outside.item(torch.tensor([3]), torch.tensor([[0, 1, -1]])).tolist() == [[1, 3, 0]]


def test_weights_of_the_better_place_at_a_nearly_flat_distribution() -> None:
    weights = sampling.log_weight_of_better(torch.tensor([3000]), 3000, 60000.0)[0].double().exp()
    p = torch.exp(-torch.arange(3000, dtype=torch.float64) / 60000)
    tail = torch.cat([(p / p.sum()).flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])
    expected = tail[:-1] ** 2 - tail[1:] ** 2
    torch.testing.assert_close(weights / weights.sum(), expected, rtol=1e-3, atol=0)
    assert math.isclose(float(expected.sum()), 1.0)
