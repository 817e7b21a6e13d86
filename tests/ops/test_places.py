"""Order statistics: equal to a full stable sort, on the CPU's path and on the other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_kd.ops import compiled
from recbole_kd.ops import order_statistics as places
from recbole_kd.ops.order_statistics import best_values, count_above, counts_above, ids_at


@pytest.fixture(params=["compiled", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The compiled path, where numba is there, and the plain one."""
    if request.param == "plain":
        monkeypatch.setattr(compiled, "kernels", lambda: None)
    elif compiled.kernels() is None:
        pytest.skip("numba is not installed")
    return str(request.param)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.usefixtures("path")
def test_ids_at_equal_a_stable_sort_with_ties_and_short_rows(data: st.DataObject) -> None:
    n, p = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 10))
    values = st.sampled_from([0.0, 1.0, 2.5, -1e4, float("-inf")])
    scores = torch.tensor(data.draw(st.lists(st.lists(values, min_size=n, max_size=n), min_size=1, max_size=4)))
    asked = torch.tensor(
        data.draw(
            st.lists(
                st.lists(st.integers(-1, n - 1), min_size=p, max_size=p), min_size=len(scores), max_size=len(scores)
            )
        )
    )
    ordered = scores.sort(dim=1, descending=True, stable=True)
    at = asked.clamp(min=0)
    expected = ordered.indices.gather(1, at).masked_fill((asked < 0) | (ordered.values.gather(1, at) == -torch.inf), 0)
    assert ids_at(scores, asked).tolist() == expected.tolist()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("few", [0, 8])
def test_both_ways_to_look_up_agree(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "FEW_RANKS", few)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20, 500, generator=generator)
    asked = torch.randint(0, 300, (20, 5), generator=generator)
    assert torch.equal(ids_at(scores, asked), scores.argsort(dim=1, descending=True).gather(1, asked))


def test_no_place_at_all() -> None:
    assert ids_at(torch.randn(2, 5), torch.full((2, 3), -1)).tolist() == [[0] * 3] * 2
    assert ids_at(torch.randn(2, 5), torch.empty(2, 0, dtype=torch.int64)).shape == (2, 0)


def test_best_values_and_counts() -> None:
    scores = torch.randn(9, 100, generator=torch.Generator().manual_seed(0))
    best = best_values(scores, 30)
    assert torch.equal(best, scores.sort(dim=1).values[:, -30:])
    wanted = scores[:, :40]
    above = (scores.unsqueeze(1) > wanted.unsqueeze(2)).sum(2)
    assert torch.equal(count_above(best, wanted), above.clamp(max=30))


def test_equal_scores_are_not_above() -> None:
    assert count_above(torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([[2.0, 1.0, 3.0, 0.0]])).tolist() == [[0, 2, 0, 3]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.usefixtures("path")
def test_counts_above_with_ties_and_what_is_not_ranked(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 12))
    most = data.draw(st.integers(1, n))
    values = st.sampled_from([0.0, 1.0, 2.5, -1e4, 3e38, -3e38, float("-inf")])
    scores = torch.tensor(data.draw(st.lists(st.lists(values, min_size=n, max_size=n), min_size=1, max_size=4)))
    columns = torch.tensor(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5))).repeat(len(scores), 1)
    expected = (scores.unsqueeze(1) > scores.gather(1, columns).unsqueeze(2)).sum(2).clamp(max=most)
    assert counts_above(scores, columns, most).tolist() == expected.tolist()


@pytest.mark.usefixtures("path")
def test_counts_above_of_a_large_catalogue() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(7, 5000, generator=generator) ** 3
    columns = torch.randint(0, 5000, (7, 300), generator=generator)
    expected = (scores.unsqueeze(1) > scores.gather(1, columns).unsqueeze(2)).sum(2)
    assert torch.equal(counts_above(scores, columns, 5000), expected)
    assert torch.equal(counts_above(scores, columns, 592), expected.clamp(max=592))
