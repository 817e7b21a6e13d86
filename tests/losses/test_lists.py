"""Cross-entropies on lists: the compiled pass against plain torch, and plain torch against the definition."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from recbole_kd.losses.cross_entropy import cross_entropy
from recbole_kd.losses.list_cross_entropy import Lists, cross_entropy_of_scores, cross_entropy_of_vectors
from recbole_kd.ops import compiled as compiled_ops
from recbole_kd.ops import compiled_lists, fused_loss
from recbole_kd.ops.gathered_dot import gathered_dot

compiled = pytest.mark.skipif(compiled_ops.kernels() is None, reason="numba is not installed")


def case(seed: int, scale: float = 1.0, d: int = 5, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Lists]:
    """Vectors of some queries, item vectors, the queries, lists of two parts with repeated and missing items."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.tensor([3, 0, 7, 8, 5])
    vectors = torch.randn(5, d, generator=generator, requires_grad=True)
    items = (scale * torch.randn(40, d, generator=generator)).requires_grad_()
    valid = torch.rand(9, 12, generator=generator) < 0.7
    valid[7, :4] = False
    valid[0] = False
    teacher = scale * torch.randn(9, 12, generator=generator)
    chosen = torch.randint(0, 40, (9, 12), generator=generator)
    shares = torch.rand(9, 2, generator=generator)
    return vectors, items, queries, Lists.of(chosen, teacher.split(5, dim=1), valid, [4, 12], shares, temperature)


def weights_of(queries: Tensor) -> Tensor:
    return torch.arange(1.0, len(queries) + 1)


def plain_total(vectors: Tensor, items: Tensor, queries: Tensor, of: Lists, temperature: float = 1.0) -> Tensor:
    losses = cross_entropy_of_scores(gathered_dot(vectors, items, of.chosen[queries]), queries, of, temperature)
    return (losses * weights_of(queries)).sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_sum_over_the_parts_is_that_of_the_loss(temperature: float) -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 6, 10, generator=generator)
    valid = torch.rand(6, 10, generator=generator) < 0.8
    shares, queries = torch.rand(6, 2, generator=generator), torch.tensor([4, 1])
    found = cross_entropy_of_scores(
        student[queries],
        queries,
        Lists.of(torch.zeros(6, 10), [teacher], valid, [3, 10], shares, temperature),
        temperature,
    )
    first, second = (
        cross_entropy(student[:, p], teacher[:, p], valid[:, p], temperature) for p in (slice(0, 3), slice(3, 10))
    )
    torch.testing.assert_close(found, (shares[:, 0] * first + shares[:, 1] * second)[queries])


@compiled
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("scale", "d", "temperature"), [(1.0, 5, 1.0), (1.0, 33, 0.3), (30.0, 1, 2.0), (1e4, 8, 1.0)])
def test_compiled_equals_plain(seed: int, scale: float, d: int, temperature: float) -> None:
    vectors, items, queries, of = case(seed, scale, d, temperature)
    loss = cross_entropy_of_vectors(vectors, items, queries, weights_of(queries), of, temperature)
    assert loss is not None and torch.isfinite(loss)
    plain = plain_total(vectors, items, queries, of, temperature)
    torch.testing.assert_close(loss, plain, rtol=2e-6, atol=1e-6 * scale)
    for factor in (1.0, -0.5):  # what follows the loss in a training
        for found, expected in zip(
            torch.autograd.grad(factor * loss, (vectors, items), retain_graph=True),
            torch.autograd.grad(factor * plain, (vectors, items), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6 * scale)


@compiled
@pytest.mark.parametrize(("n", "d"), [(1, 8), (3, 20), (4, 16), (5, 64), (37, 9), (70, 100), (90, 40)])
def test_compiled_equals_plain_at_any_length_and_width(n: int, d: int) -> None:
    """Lists shorter and longer than what is read ahead; vectors that fill registers and that do not."""
    generator = torch.Generator().manual_seed(n)
    vectors = (d**-0.5 * torch.randn(6, d, generator=generator)).requires_grad_()
    items = torch.randn(50, d, generator=generator, requires_grad=True)
    chosen, teacher = torch.randint(0, 50, (6, n), generator=generator), torch.randn(6, n, generator=generator)
    of = Lists.of(chosen, [teacher], torch.rand(6, n, generator=generator) < 0.9, [n], None, 1.0)
    queries = torch.arange(6).flip(0)
    loss, plain = (
        cross_entropy_of_vectors(vectors, items, queries, weights_of(queries), of),
        plain_total(vectors, items, queries, of),
    )
    assert loss is not None
    torch.testing.assert_close(loss, plain, rtol=2e-6, atol=1e-5)
    for found, expected in zip(
        torch.autograd.grad(loss, (vectors, items)), torch.autograd.grad(plain, (vectors, items)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@compiled
def test_a_query_without_a_valid_item_has_no_loss() -> None:
    vectors, items, queries, of = case(0)
    loss = cross_entropy_of_vectors(vectors[1:2], items, queries[1:2], torch.ones(1), of)
    assert loss is not None and loss == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (vectors, items)))


@compiled
def test_nan_is_not_hidden() -> None:
    vectors, items, queries, of = case(0)
    with torch.no_grad():
        vectors[0] = torch.nan
    loss = cross_entropy_of_vectors(vectors, items, queries, torch.ones(5), of)
    assert loss is not None and loss.isnan()
    found = torch.autograd.grad(loss, vectors)[0]
    assert found[0].isnan().all() and torch.isfinite(found[1:]).all()
    rest = cross_entropy_of_vectors(vectors[1:], items, queries[1:], torch.ones(4), of)
    assert rest is not None and torch.isfinite(rest)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fused_loss, "PAIRS_PER_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@compiled
def test_two_threads_give_the_same_bits(two_threads: None) -> None:
    vectors, items, queries, of = case(1)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        loss = cross_entropy_of_vectors(vectors, items, queries, weights_of(queries), of)
        assert loss is not None
        results.append([loss, *torch.autograd.grad(loss, (vectors, items))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_other_devices_types_and_missing_kernels_take_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, items, queries, of = case(2)
    weights = weights_of(queries)
    assert cross_entropy_of_vectors(vectors.double(), items.double(), queries, weights, of) is None
    assert cross_entropy_of_vectors(vectors.to("meta"), items.to("meta"), queries, weights, of) is None
    monkeypatch.setattr(compiled_ops, "kernels", lambda: None)
    assert cross_entropy_of_vectors(vectors, items, queries, weights, of) is None


@compiled
@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("rows_at_a_time", [4, 100])
def test_items_that_count_are_closed_up_as_in_plain_torch(
    rows_at_a_time: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_lists, "SET_NUMBERS_FROM", 0)
    monkeypatch.setattr(compiled_lists, "ROWS_AT_A_TIME", rows_at_a_time)
    of = case(5, 3.0, temperature=temperature)[3]
    of.teacher[0][1, 2], of.teacher[1][2, 3], of.teacher[1][3, 0] = torch.nan, -torch.inf, 1e30
    again = Lists(of.chosen, of.teacher, of.valid, of.ends, of.shares, of.temperature)
    fast = of.counted
    monkeypatch.setattr(compiled_lists, "kernels", lambda: None)
    for found, expected in zip(fast, again.counted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9, equal_nan=True)
