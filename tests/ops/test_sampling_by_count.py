"""Draws by level: the compiled draw is the plain one, and both have the distribution of successive sampling."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from recbole_kd.ops import compiled as compiled_ops
from recbole_kd.ops.order_statistics import counts_of_lower
from recbole_kd.ops.sampling_by_count import draw_by_count

compiled = pytest.mark.skipif(compiled_ops.kernels() is None, reason="numba is not installed")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain_draw(counts: Tensor, n: int, tau: float, n_levels: int, seed: int) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled_ops, "draw_by_count", lambda *_: None)
        return draw_by_count(counts, n, tau, n_levels, seeded(seed))


tables = st.integers(1, 9).flatmap(
    lambda n: st.lists(st.lists(st.integers(-1, 4), min_size=n, max_size=n), min_size=1, max_size=4)
)


@compiled
@settings(max_examples=200, deadline=None)
@given(tables, st.integers(1, 12), st.sampled_from([0.001, 0.7, 10.0]), st.integers(0, 2**31))
def test_compiled_equals_plain(rows: list[list[int]], n: int, tau: float, seed: int) -> None:
    counts = torch.tensor(rows, dtype=torch.int32)
    found = draw_by_count(counts, n, tau, 5, seeded(seed))
    assert torch.equal(found, plain_draw(counts, n, tau, 5, seed))
    for row, ids in zip(rows, found.tolist(), strict=True):
        allowed = {column for column, count in enumerate(row) if count >= 0}
        drawn = ids[: min(n, len(allowed))]
        assert len(set(drawn)) == len(drawn) and set(drawn) <= allowed, "distinct columns, of those that may be drawn"
        assert ids[len(drawn) :] == [-1] * (n - len(drawn)), "-1 where nothing is left"


@compiled
def test_compiled_equals_plain_at_the_size_of_a_catalogue() -> None:
    counts = torch.randint(-1, 51, (4, 3000), dtype=torch.int32, generator=seeded(0))
    assert torch.equal(draw_by_count(counts, 200, 10.0, 51, seeded(1)), plain_draw(counts, 200, 10.0, 51, 1))


def successive(counts: list[int], order: tuple[int, ...], tau: float) -> float:
    """Probability of these columns in this order, by the definition of successive sampling."""
    left = {column: math.exp(count / tau) for column, count in enumerate(counts) if count >= 0}
    probability = 1.0
    for column in order:
        probability *= left[column] / sum(left.values())
        del left[column]
    return probability


@pytest.mark.parametrize("draw", ["as it is", "plain"])
@pytest.mark.parametrize("counts", [[2, 0, -1, 2, 1], [3, 0, 0, 0, -1], [1, 1, 1, 1, 1]])
def test_order_of_the_draws_is_successive_sampling(counts: list[int], draw: str) -> None:
    n_rows, tau, n = 100_000, 1.5, 3
    table = torch.tensor(counts, dtype=torch.int32).expand(n_rows, -1)
    found = draw_by_count(table, n, tau, 4, seeded(5)) if draw == "as it is" else plain_draw(table, n, tau, 4, 5)
    keys, seen = torch.unique(found, dim=0, return_counts=True)
    observed = {tuple(key): count for key, count in zip(keys.tolist(), seen.tolist(), strict=True)}
    orders = list(permutations([column for column, count in enumerate(counts) if count >= 0], n))
    assert set(observed) <= set(orders)
    expected = [n_rows * successive(counts, order, tau) for order in orders]
    assert chisquare([observed.get(order, 0) for order in orders], expected).pvalue > 1e-3


def test_a_level_far_above_the_others_comes_first_whatever_the_temperature() -> None:
    counts = torch.tensor([[0, 4, 0, 4, 0]], dtype=torch.int32)
    found = draw_by_count(counts, 5, 1e-9, 5, seeded(0))[0].tolist()
    assert set(found[:2]) == {1, 3} and set(found[2:]) == {0, 2, 4}


@compiled
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1e-6, 1.0, 1e30]), st.integers(1, 40))
def test_counts_of_lower_in_buckets_equal_the_search(seed: int, scale: float, k: int) -> None:
    generator = seeded(seed)
    scores = torch.randn(3, 400, generator=generator).mul(scale).to(torch.float32)
    scores[:, ::8] = scores[:, 1::8]  # ties
    wanted = scores.gather(1, torch.randint(0, 400, (3, k), generator=generator))
    valid = torch.rand(3, k, generator=generator) < 0.8
    scores[torch.rand(3, 400, generator=generator) < 0.1] = -torch.inf
    found = counts_of_lower(scores, wanted, valid)
    assert torch.equal(found, counts_of_lower(scores.double(), wanted.double(), valid))
