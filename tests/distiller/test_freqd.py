"""FreqD: equal to the published class; graph, filter and dropout by their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

from recbole_kd.distiller import graph_filtered_experts as experts_module
from recbole_kd.distiller.freqd import FreqD
from recbole_kd.distiller.graph_filtered_experts import FilteredExperts, FilterRows
from recbole_kd.distiller.registry import check_options
from recbole_kd.errors import ConfigError
from recbole_kd.losses.embedding import drop_units, kept_at_random, mask_units
from recbole_kd.ops import compiled, cooccurrence_graph
from recbole_kd.ops.cooccurrence_graph import WeightedGraph, nearest_neighbours, normalised_graph
from recbole_kd.ops.ragged import Ragged
from tests.support.embedding_stubs import (
    assert_equals_published,
    batch_of_rows,
    load_networks,
    random_pair,
    reference,
    vector_pair,
    with_pad,
)


def padded_graph(graph: list[list[float]]) -> WeightedGraph:
    inner = np.array(graph)
    return WeightedGraph.from_matrix(sp.csr_matrix(np.pad(inner, ((1, 0), (1, 0)))))


@pytest.mark.parametrize("case", reference("freqd"), ids=["random-1", "random-2", "squared", "extreme"])
def test_freqd_equals_the_published_class(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = vector_pair(case)
    options = {"filter_strength": case["strength"], "distance": case["distance"], "n_experts": len(case["user"]["w1"])}
    distiller = FreqD(student, teacher, dropout=0.0, keep=0.5, **options)  # type: ignore[arg-type]
    load_networks(distiller.user_projector, case["user"])
    load_networks(distiller.item_projector, case["item"])
    kept = {}
    for side in ("user", "item"):
        n = len(case[f"graph_{side}"]) + 1
        kept[f"{side}s"] = torch.zeros(n, n, dtype=torch.bool)
        row, column = (torch.tensor(case[f"kept_{side}"]) + 1).unbind(1)
        kept[f"{side}s"][row, column] = True
    distiller.graphs = {"users": padded_graph(case["graph_user"]), "items": padded_graph(case["graph_item"])}
    monkeypatch.setattr(distiller, "kept_edges", lambda side, rows, columns: kept[side][rows, columns])
    assert_equals_published(distiller, student, case)


# -- the graph
# -----------------------------------------------------------------------------------------------------------


def naive_neighbours(matrix: np.ndarray, n: int) -> set[tuple[int, int]]:
    shared = matrix @ matrix.T
    found = set()
    for row in range(len(matrix)):
        others = [o for o in range(len(matrix)) if o != row and shared[row, o] > 0]
        found |= {(row, o) for o in sorted(others, key=lambda o: (-shared[row, o], o))[:n]}
    return found


@pytest.mark.parametrize("budget", [1, 60, 2**22])
def test_neighbours_are_those_that_share_most(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooccurrence_graph, "PRODUCTS_PER_BLOCK", budget)
    matrix = (np.random.default_rng(0).random((15, 9)) < 0.25).astype(np.int32)
    matrix[3] = 0  # shares nothing
    matrix[7] = matrix[8]
    for n in (1, 4, 50):
        rows, columns = nearest_neighbours(sp.csr_matrix(matrix), n)
        pairs = list(zip(rows.tolist(), columns.tolist(), strict=True))
        assert len(pairs) == len(set(pairs)) and set(pairs) == naive_neighbours(matrix, n)


def test_graph_is_symmetric_and_normalised_by_degree() -> None:
    rows, columns = np.array([0, 0, 1, 2]), np.array([1, 2, 0, 1])
    adjacency = np.array([[0, 1, 0.5, 0], [1, 0, 0.5, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]])
    degree = np.array([1.5, 1.5, 1.0, 1.0])
    found = normalised_graph(rows, columns, 4).toarray()
    assert np.allclose(found, adjacency / np.sqrt(np.outer(degree, degree)))


def test_graphs_of_users_and_items_from_the_training_data() -> None:
    distiller = FreqD(*random_pair(n_users=3, n_items=4), n_neighbours=2)  # type: ignore[arg-type]
    distiller.begin_training(Ragged.from_pairs(np.array([1, 1, 2, 2, 3]), np.array([1, 2, 2, 3, 4]), 4))
    position, columns, values = distiller.graphs["users"].edges(torch.tensor([3, 0, 2, 1]))
    assert (position.tolist(), columns.tolist(), values.tolist()) == (
        [2, 3],
        [1, 2],
        [1.0, 1.0],
    )  # users 1 and 2 share item 2
    position, columns, values = distiller.graphs["items"].edges(torch.tensor([1, 2, 3, 4]))
    assert (position.tolist(), columns.tolist()) == ([0, 1, 1, 2], [2, 1, 3, 2]) and values.tolist() == pytest.approx(
        [0.5**0.5] * 4
    )


# -- filter and networks
# -------------------------------------------------------------------------------------------------


def test_only_kept_edges_are_scaled_up_and_a_quarter_is_a_quarter() -> None:
    train = Ragged.from_pairs(np.repeat(np.arange(1, 401), 3), np.tile([1, 2, 3], 400), 401)
    distiller = FreqD(*random_pair(n_users=400), n_neighbours=4, keep=0.25, filter_strength=0.4)  # type: ignore[arg-type]
    distiller.begin_training(train)
    ids = torch.arange(1, 401)
    distiller.eval()
    whole = distiller._filter_rows("users", ids)
    distiller.train()
    counts, total = 0, len(whole[0]) - 400
    for _ in range(20):
        columns, weights, starts = distiller._filter_rows("users", ids)
        assert torch.equal(columns[starts], ids) and weights[starts].tolist() == pytest.approx([0.6] * 400)
        counts += len(columns) - 400
    share = counts / (20 * total)
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / (20 * total)) ** 0.5
    edges = torch.ones(len(columns), dtype=torch.bool)
    edges[starts] = False
    exact = {(int(r), int(c)): float(v) for r, c, v in zip(*distiller.graphs["users"].edges(ids), strict=True)}
    row = torch.repeat_interleave(torch.arange(400), torch.cat([starts, torch.tensor([len(columns)])]).diff())
    for r, c, w in zip(
        row[edges][:50].tolist(), columns[edges][:50].tolist(), weights[edges][:50].tolist(), strict=True
    ):
        assert w == pytest.approx(0.4 * exact[r, c] / 0.25, rel=1e-5)


def naive_experts(experts: FilteredExperts, vectors: Tensor, matrix: Tensor) -> Tensor:
    each = [
        torch.relu(vectors @ experts.weight_1[e] + experts.bias_1[e]) @ experts.weight_2[e] + experts.bias_2[e]
        for e in range(experts.n_experts)
    ]
    return matrix @ torch.stack(each).mean(0)


def test_filtered_experts_and_gradients_equal_projecting_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts_module, "rows_at_a_time", lambda *_: 6)
    generator = torch.Generator().manual_seed(0)
    experts = FilteredExperts(3, 4, 6, 0.0, generator).double()
    vectors = torch.randn(20, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    columns = torch.cat([torch.randperm(20, generator=generator)[:size] for size in (1, 7, 3, 5)])
    weights = torch.rand(16, generator=generator, dtype=torch.float64)
    rows = FilterRows(columns, weights, torch.tensor([0, 1, 8, 11]))
    matrix = torch.zeros(4, 20, dtype=torch.float64)
    matrix[torch.tensor([0] + [1] * 7 + [2] * 3 + [3] * 5), columns] = weights
    direction = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    found, expected = experts(vectors, rows, generator), naive_experts(experts, vectors, matrix)
    torch.testing.assert_close(found, expected)
    wanted = [vectors, *experts.parameters()]
    for own, other in zip(
        *(torch.autograd.grad((out * direction).sum(), wanted) for out in (found, expected)), strict=True
    ):
        torch.testing.assert_close(own, other)


def test_the_compiled_dropout_has_the_bits_of_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    units = torch.randn(37, 11, generator=torch.Generator().manual_seed(0))
    units[3, 4], units[5, 6] = torch.nan, 0.0
    found = []
    for serves in (True, False):
        if not serves:
            monkeypatch.setattr(compiled, "kernels", lambda: None)
        for dropout in (0.3, 0.0):
            own = units.clone()
            alive = drop_units(own, dropout, torch.Generator().manual_seed(7))
            masked = mask_units(units.clone(), alive)
            assert torch.equal(own.view(torch.int32), masked.view(torch.int32)) and own[3, 4].isnan()
            assert not alive[3, 4] and not alive[units <= 0].any()
            assert bool(alive[units > 0].all()) == (dropout == 0)
            found.append((own.view(torch.int32), alive))
    for one, another in zip(found[:2], found[2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, another, strict=True))


def test_dropout_keeps_the_mean_of_linear_units() -> None:
    """With ReLU out of the way (large biases) the mean over draws is the value without dropout."""
    generator = torch.Generator().manual_seed(0)
    experts = FilteredExperts(2, 3, 4, 0.3, generator)
    with torch.no_grad():
        experts.bias_1.add_(20.0)
    vectors = torch.randn(5, 3, generator=generator)
    rows = FilterRows(torch.arange(5), torch.ones(5), torch.arange(5))
    exact = experts.eval()(vectors, rows, generator).detach()
    experts.train()
    with torch.no_grad():
        draws = torch.stack([experts(vectors, rows, generator) for _ in range(1000)])
    assert float(draws.std(0).min()) > 0.1
    error = (draws.mean(0) - exact).abs() / (draws.std(0) / 1000**0.5)
    assert float(error.max()) < 4.5


@pytest.mark.parametrize("share", [1e-4, 0.2, 0.5, 0.999, 1.0])
def test_coins_fall_as_often_as_asked(share: float) -> None:
    coins = kept_at_random((1000, 403), share, torch.Generator().manual_seed(1))
    n = coins.numel()
    assert coins.shape == (1000, 403) and coins.dtype == torch.bool
    assert abs(float(coins.float().mean()) - share) < 4 * (share * (1 - share) / n) ** 0.5 + 2**-16
    if share == 0.5:  # neighbours in a 64-bit word are independent
        flat = coins.flatten()
        for lag in (1, 2, 3, 4):
            assert abs(float((flat[lag:] == flat[:-lag]).float().mean()) - 0.5) < 4 * (0.25 / n) ** 0.5


def test_student_vectors_are_those_before_propagation() -> None:
    student, teacher = random_pair()
    other = with_pad(torch.randn(12, 4)), with_pad(torch.randn(20, 4))
    student.query_vectors, student.item_table = lambda ids: other[0][ids], lambda: other[1]  # type: ignore[method-assign]
    distiller = FreqD(student, teacher)  # type: ignore[arg-type]
    distiller.begin_training(Ragged.from_pairs(np.array([1, 2, 3]), np.array([1, 1, 2]), 13))
    distiller(batch_of_rows([1, 2, 3], [1, 1, 2], [5, 6, 7])).backward()
    assert student.users.grad is not None and bool(student.users.grad[1:4].any())


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_neighbours", 0), ("n_experts", 0), ("filter_strength", 1.5), ("keep", 0.0), ("keep", 1.5), ("dropout", 1.0)],
)
def test_options_out_of_range_are_refused_by_name(key: str, value: float) -> None:
    options = {"n_neighbours": 5, "n_experts": 5, "filter_strength": 0.5, "keep": 0.5, "dropout": 0.2, key: value}
    with pytest.raises(ConfigError, match=f"kd_{key}={value}"):
        check_options(FreqD, options, 10, 10)
