"""The pure functions against hand-computed numbers, the toy oracle and naive counterparts.

The bound of the paper is tested as a property.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from recbole_kd.losses.cross_entropy import (
    cross_entropy,
    is_closed,
    masked_log_softmax,
    ndcg_on_set,
    rce_weight,
    teacher_probabilities,
)
from recbole_kd.ops.membership import is_in
from recbole_kd.ops.order_statistics import counts_below, counts_of_lower
from recbole_kd.ops.sampling import sample_without_replacement

TEACHER = torch.tensor([[2.0, 1.5, 0.1, 0.3, -0.2, 0.2, 1.0, 0.0]], dtype=torch.float64)
STUDENT = torch.tensor([[0.6, 0.9, 0.5, 1.0, 0.4, 0.8, 0.2, 0.3]], dtype=torch.float64)
Q_TEACHER, Q_STUDENT = [0, 1, 6], [3, 1, 5]


def ce_on(items: list[int]) -> float:
    return float(cross_entropy(STUDENT[:, items], TEACHER[:, items]))


def ranks_of(scores: Tensor) -> Tensor:
    return 1 + (scores.unsqueeze(1) > scores.unsqueeze(2)).sum(2)


# -- the toy oracle: one user, 8 items, K = 3, beta = 3, sampling temperature 10 ---------------------------------------


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([3, 1, 5], 1.100122),
        ([0, 3, 5, 6], 1.501764),
        (Q_TEACHER, 1.087687),
        (list(range(8)), 2.080605),
        ([3, 1, 5, 0, 6], 1.685622),
    ],
    ids=["L1", "L2", "vanilla", "full", "union"],
)
def test_oracle_cross_entropies(items: list[int], expected: float) -> None:
    assert ce_on(items) == pytest.approx(expected, rel=1e-5)


def test_oracle_totals_of_both_modes() -> None:
    l1, l2 = ce_on(Q_STUDENT), ce_on([0, 3, 5, 6])
    paper, code = (float(rce_weight(torch.tensor(overlap, dtype=torch.float64), 3.0)) for overlap in (1 / 3, 0.0))
    assert paper == pytest.approx(0.367879, rel=1e-5)
    assert (1 - paper) * l1 + paper * l2 == pytest.approx(1.247877, rel=1e-5)
    assert (1 - code) * l1 + code * l2 == pytest.approx(1.501764, rel=1e-5)


def test_oracle_sampling_weights_of_the_paper() -> None:
    missing = torch.tensor([[True, False, True]])
    z = counts_of_lower(STUDENT, STUDENT[:, Q_TEACHER], missing)
    assert z.tolist() == [[1, 2, 1, 2, 1, 2, 0, 1]]
    expected = [0.12165, 0.13444, 0.12165, 0.13444, 0.12165, 0.13444, 0.11007, 0.12165]
    torch.testing.assert_close(torch.softmax(z / 10, 1), torch.tensor([expected]), atol=1e-5, rtol=0)


def test_oracle_counts_of_the_code() -> None:
    member = is_in(torch.tensor([[3, 1, 5, 0, 2]]), torch.tensor([Q_TEACHER]))
    assert member.tolist() == [[False, True, False, True, False]]
    assert counts_below(member, inclusive=True).tolist() == [[2, 2, 1, 1, 0]]
    assert counts_below(member, inclusive=False).tolist() == [[2, 1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("items", "expected", "closed"),
    [(Q_STUDENT, 0.805543, True), (Q_TEACHER, 0.593257, False), (list(range(8)), 0.725710, True)],
)
def test_oracle_partial_ndcg(items: list[int], expected: float, closed: bool) -> None:
    ranks = ranks_of(STUDENT)[:, items]
    gains = torch.softmax(TEACHER, 1)[:, items]
    assert float(ndcg_on_set(ranks, gains)) == pytest.approx(expected, rel=1e-5)
    assert bool(is_closed(ranks)) is closed


# -- the bound (methods: log NDCG_J + CE_J >= 0 for every closed J)
# --------------------------------------------------------

scores = st.lists(st.floats(-20, 20, allow_nan=False, width=32), min_size=2, max_size=30, unique=True)


@settings(max_examples=200, deadline=None)
@given(student=scores, data=st.data())
def test_cross_entropy_bounds_ndcg_on_every_closed_set(student: list[float], data: st.DataObject) -> None:
    teacher = data.draw(st.lists(st.floats(-20, 20, allow_nan=False), min_size=len(student), max_size=len(student)))
    r_s, r_t = (torch.tensor([values], dtype=torch.float64) for values in (student, teacher))
    order, ranks, gains = r_s.argsort(1, descending=True), ranks_of(r_s), torch.softmax(r_t, 1)
    for size in range(1, len(student) + 1):
        prefix = order[:, :size]
        assert bool(is_closed(ranks.gather(1, prefix)))
        bound = ndcg_on_set(ranks.gather(1, prefix), gains.gather(1, prefix)).log() + cross_entropy(
            r_s.gather(1, prefix), r_t.gather(1, prefix)
        )
        assert float(bound) >= -1e-9


def test_the_bound_can_fail_on_a_set_that_is_not_closed() -> None:
    student, teacher = (
        torch.linspace(1, 0, 50, dtype=torch.float64).unsqueeze(0),
        torch.zeros(1, 50, dtype=torch.float64),
    )
    last = torch.tensor([[49]])
    ranks = ranks_of(student).gather(1, last)
    assert not bool(is_closed(ranks))
    gains = torch.softmax(teacher, 1).gather(1, last)
    assert float(ndcg_on_set(ranks, gains).log() + cross_entropy(student.gather(1, last), teacher.gather(1, last))) < -1


# -- masks, gradients, extremes
# --------------------------------------------------------------------------------------------


def test_masked_columns_do_not_count() -> None:
    student, teacher = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    valid = torch.tensor([[True, False, True, True, False, True]]).expand(4, -1)
    kept = valid[0]
    torch.testing.assert_close(
        cross_entropy(student, teacher, valid), cross_entropy(student[:, kept], teacher[:, kept])
    )
    torch.testing.assert_close(teacher_probabilities(teacher, valid).sum(1), torch.ones(4, dtype=torch.float64))


def test_an_empty_row_costs_nothing_and_has_no_gradient() -> None:
    student = torch.randn(2, 3, requires_grad=True)
    valid = torch.tensor([[False, False, False], [True, True, False]])
    loss = cross_entropy(student, torch.randn(2, 3), valid)
    loss.sum().backward()
    assert loss[0] == 0 and student.grad is not None
    assert student.grad[0].abs().sum() == 0 and student.grad[1].abs().sum() > 0 and student.grad[1, 2] == 0
    assert masked_log_softmax(student, valid)[0].abs().sum() == 0


def test_no_column_at_all_is_an_empty_set() -> None:
    nothing = torch.zeros(2, 0)
    assert cross_entropy(nothing, nothing).tolist() == [0, 0]
    assert cross_entropy(nothing, nothing, torch.zeros(2, 0, dtype=torch.bool)).tolist() == [0, 0]


def test_cross_entropy_by_hand() -> None:
    # teacher 3 : 1, student 1 : 1 on the two columns that count
    student, teacher = torch.tensor([[7.0, 7.0, 99.0]]), torch.tensor([[math.log(3.0), 0.0, -99.0]])
    valid = torch.tensor([[True, True, False]])
    assert float(cross_entropy(student, teacher, valid)) == pytest.approx(math.log(2.0))
    torch.testing.assert_close(teacher_probabilities(teacher, valid), torch.tensor([[0.75, 0.25, 0.0]]))
    torch.testing.assert_close(teacher_probabilities(teacher, valid, 0.5), torch.tensor([[0.9, 0.1, 0.0]]))


def test_gradients_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    valid = torch.rand(3, 5, generator=generator) > 0.3
    valid[2] = False  # an empty row
    for mask, temperature in itertools.product((None, valid), (1.0, 10.0)):
        assert torch.autograd.gradcheck(lambda s, m=mask, t=temperature: cross_entropy(s, teacher, m, t), (student,))


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_finite_at_extreme_scores(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student = (torch.randn(8, 20, generator=generator) * scale).requires_grad_()
    teacher = torch.randn(8, 20, generator=generator) * scale
    loss = cross_entropy(student, teacher, torch.rand(8, 20, generator=generator) > 0.5)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and student.grad is not None and torch.isfinite(student.grad).all()


# -- membership and sampling
# -----------------------------------------------------------------------------------------------

rows = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.integers(0, 9), min_size=5, max_size=5), min_size=n, max_size=n),
        st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=n, max_size=n),
    )
)


@settings(max_examples=100, deadline=None)
@given(rows)
def test_is_in_equals_python(both: tuple[list[list[int]], list[list[int]]]) -> None:
    items, other = both
    expected = [[item in wanted for item in row] for row, wanted in zip(items, other, strict=True)]
    assert is_in(torch.tensor(items), torch.tensor(other)).tolist() == expected


def test_is_in_of_nothing() -> None:
    assert not is_in(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.int64)).any()


tables = st.integers(1, 8).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=4)
)


@settings(max_examples=100, deadline=None)
@given(tables, st.booleans())
def test_counts_below_equals_python(member: list[list[bool]], inclusive: bool) -> None:
    expected = [[sum(row[place if inclusive else place + 1 :]) for place in range(len(row))] for row in member]
    assert counts_below(torch.tensor(member), inclusive=inclusive).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_counts_of_lower_equals_python(data: st.DataObject) -> None:
    """Scores are small whole numbers, so that most are equal to another."""
    n_rows, n_items, n_wanted = (data.draw(st.integers(1, most)) for most in (3, 8, 5))
    score = st.integers(-2, 2).map(float)
    maybe_ranked = st.one_of(score, st.just(-math.inf))

    def table(value: st.SearchStrategy[Any], width: int) -> list[list[Any]]:
        return data.draw(st.lists(st.lists(value, min_size=width, max_size=width), min_size=n_rows, max_size=n_rows))

    items, wanted, valid = table(maybe_ranked, n_items), table(score, n_wanted), table(st.booleans(), n_wanted)
    expected = [
        [
            -1
            if mine == -math.inf
            else sum(ok and other < mine for other, ok in zip(row_wanted, row_valid, strict=True))
            for mine in row
        ]
        for row, row_wanted, row_valid in zip(items, wanted, valid, strict=True)
    ]
    given = torch.tensor(items), torch.tensor(wanted), torch.tensor(valid)
    assert counts_of_lower(*given).tolist() == expected
    assert counts_of_lower(given[0].double(), *given[1:]).tolist() == expected, (
        "the plain path, which takes what is no float32"
    )


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(1, 9)), st.integers(1, 8))
def test_closure_equals_its_definition(ranks: list[int], size: int) -> None:
    """Assumption 4.3 in its own words: with an item, everything that the student ranks above it."""
    inside = ranks[:size]
    expected = all(better in inside for rank in inside for better in range(1, rank))
    assert is_closed(torch.tensor([inside])).tolist() == [expected]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 1)), min_size=1, max_size=8, unique_by=lambda pair: pair[0])
)
def test_partial_ndcg_equals_python(pairs: list[tuple[int, float]]) -> None:
    dcg = sum(gain / math.log2(1 + rank) for rank, gain in pairs)
    ideal = sum(
        gain / math.log2(1 + place) for place, gain in enumerate(sorted((g for _, g in pairs), reverse=True), start=1)
    )
    found = ndcg_on_set(
        torch.tensor([[r for r, _ in pairs]]), torch.tensor([[g for _, g in pairs]], dtype=torch.float64)
    )
    assert float(found) == pytest.approx(dcg / ideal) and 0 < float(found) <= 1 + 1e-12


def successive_probabilities(weights: list[float], n: int) -> dict[tuple[int, ...], float]:
    """Exact probability of every ordered draw of n items, one after the other, without replacement."""
    result = {}
    for draw in itertools.permutations(range(len(weights)), n):
        left, probability = sum(weights), 1.0
        for item in draw:
            probability *= weights[item] / left
            left -= weights[item]
        result[draw] = probability
    return result


@pytest.mark.parametrize(
    "counts",
    [[2.0, 2.0, 1.0, 1.0, 0.0], [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 0.0, 1.0], [50.0, 20.0, 10.0, 0.0]],
    ids=["code", "paper", "steep"],
)
def test_draws_without_replacement_by_chi_square(counts: list[float]) -> None:
    n_draws = 100_000
    generator = torch.Generator().manual_seed(7)
    drawn = sample_without_replacement(torch.tensor([counts]).expand(n_draws, -1) / 10, 2, generator)
    expected = successive_probabilities([math.exp(c / 10) for c in counts], 2)
    observed = torch.bincount(drawn[:, 0] * len(counts) + drawn[:, 1], minlength=len(counts) ** 2)
    pairs = list(expected)
    result = chisquare(
        [int(observed[a * len(counts) + b]) for a, b in pairs], [n_draws * expected[pair] for pair in pairs]
    )
    assert result.pvalue > 1e-3
    assert int(sum(observed[a * len(counts) + a] for a in range(len(counts)))) == 0


@pytest.mark.parametrize(
    "counts", [[2.0, 2.0, 1.0, 1.0, 0.0], [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 0.0, 1.0]], ids=["code", "paper"]
)
def test_inclusion_of_three_draws(counts: list[float]) -> None:
    """An item's share of the samples against the exact one; five standard errors."""
    n_draws = 100_000
    drawn = sample_without_replacement(
        torch.tensor([counts]).expand(n_draws, -1) / 10, 3, torch.Generator().manual_seed(11)
    )
    exact = successive_probabilities([math.exp(c / 10) for c in counts], 3)
    for item in range(len(counts)):
        expected = sum(p for draw, p in exact.items() if item in draw)
        found = float((drawn == item).any(1).float().mean())
        assert abs(found - expected) < 5 * math.sqrt(expected * (1 - expected) / n_draws)


def test_never_draws_what_has_no_weight() -> None:
    log_weights = torch.tensor([[0.0, -torch.inf, 3.0, -torch.inf]]).expand(1000, -1)
    drawn = sample_without_replacement(log_weights, 2, torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) == {0, 2}


def test_same_seed_same_draw() -> None:
    weights = torch.randn(5, 30)
    first, second = (sample_without_replacement(weights, 10, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
