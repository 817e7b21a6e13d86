"""Cross-entropies on lists: the compiled pass against plain torch, and plain torch against the definition."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from recbole_kd.losses import list_cross_entropy
from recbole_kd.losses.cross_entropy import cross_entropy
from recbole_kd.losses.list_cross_entropy import Lists, cross_entropy_of_scores, cross_entropy_of_vectors
from recbole_kd.ops import compiled as compiled_ops
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
    return vectors, items, queries, Lists.of(chosen, teacher, valid, [4, 12], shares, temperature)


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((loss * torch.arange(1.0, len(loss) + 1)).sum(), inputs))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_sum_over_the_parts_is_that_of_the_loss(temperature: float) -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 6, 10, generator=generator)
    valid = torch.rand(6, 10, generator=generator) < 0.8
    shares, queries = torch.rand(6, 2, generator=generator), torch.tensor([4, 1])
    found = cross_entropy_of_scores(
        student[queries],
        queries,
        Lists.of(torch.zeros(6, 10), teacher, valid, [3, 10], shares, temperature),
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
    loss = cross_entropy_of_vectors(vectors, items, queries, of, temperature)
    assert loss is not None and torch.isfinite(loss).all()
    plain = cross_entropy_of_scores(gathered_dot(vectors, items, of.chosen[queries]), queries, of, temperature)
    torch.testing.assert_close(loss, plain, rtol=2e-6, atol=1e-6 * scale)
    assert loss[1] == 0, "a query without a valid item"
    for found, expected in zip(gradients(loss, vectors, items), gradients(plain, vectors, items), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6 * scale)


@compiled
def test_nan_is_not_hidden() -> None:
    vectors, items, queries, of = case(0)
    with torch.no_grad():
        vectors[0] = torch.nan
    loss = cross_entropy_of_vectors(vectors, items, queries, of)
    assert loss is not None and loss[0].isnan() and torch.isfinite(loss[1:]).all()


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(list_cross_entropy, "PAIRS_PER_THREAD", 1)
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
        loss = cross_entropy_of_vectors(vectors, items, queries, of)
        assert loss is not None
        results.append([loss, *gradients(loss, vectors, items)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_other_devices_types_and_missing_kernels_take_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, items, queries, of = case(2)
    assert cross_entropy_of_vectors(vectors.double(), items.double(), queries, of) is None
    assert cross_entropy_of_vectors(vectors.to("meta"), items.to("meta"), queries, of) is None
    monkeypatch.setattr(compiled_ops, "kernels", lambda: None)
    assert cross_entropy_of_vectors(vectors, items, queries, of) is None
