"""Dot products at chosen items: forward and backward equal the plain gather."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_kd.ops import compiled_lists
from recbole_kd.ops import gathered_dot as gather_module
from recbole_kd.ops.gathered_dot import gathered_dot


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(9, 5, generator=generator, dtype=dtype, requires_grad=True)
    items = torch.randn(20, 5, generator=generator, dtype=dtype, requires_grad=True)
    return queries, items, torch.randint(0, 20, (9, 12), generator=generator)  # repeats within rows


def plain(queries: Tensor, items: Tensor, chosen: Tensor) -> Tensor:
    return torch.einsum("bkd,bd->bk", items[chosen], queries)


@pytest.mark.parametrize("chunk_bytes", [1, 300, 2**25])
@pytest.mark.parametrize("path", ["cpu", "without numba", "any device"])
def test_equals_the_plain_gather(chunk_bytes: int, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather_module, "CHUNK_BYTES", chunk_bytes)
    if path != "cpu":
        monkeypatch.setattr(compiled_lists, "kernels", lambda: None)
    if path == "any device":
        monkeypatch.setattr(gather_module, "_backward_cpu", gather_module._backward)
        monkeypatch.setattr(gather_module, "_has_sampled_product", lambda: False)
    queries, items, chosen = inputs()
    expected = plain(queries, items, chosen)
    weights = torch.randn(expected.shape)
    (expected * weights).sum().backward()
    by_hand = [t.grad.clone() for t in (queries, items) if t.grad is not None]
    queries.grad = items.grad = None
    found = gathered_dot(queries, items, chosen)
    (found * weights).sum().backward()
    torch.testing.assert_close(found, expected)
    for tensor, grad in zip((queries, items), by_hand, strict=True):
        torch.testing.assert_close(tensor.grad, grad, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(compiled_lists.kernels() is None, reason="numba is not installed")
def test_ids_of_32_bits_take_the_compiled_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather_module, "_sampled_product", lambda *_: pytest.fail("torch's sampled product"))
    queries, items, chosen = inputs()
    assert torch.equal(gathered_dot(queries, items, chosen.int()), gathered_dot(queries, items, chosen))


@pytest.mark.parametrize(("k", "d"), [(1, 8), (3, 20), (4, 64), (41, 100), (16, 1)])
@pytest.mark.parametrize("numbers", [1, 2**40])
def test_the_compiled_kernels_equal_the_plain_gather(
    k: int, d: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists shorter and longer than what is read ahead, vectors of any width, on one thread and two."""
    monkeypatch.setattr(compiled_lists, "NUMBERS_FOR_TWO", numbers)
    monkeypatch.setattr(compiled_lists, "n_threads", lambda: 2)
    generator = torch.Generator().manual_seed(k)
    queries, items, grad = (torch.randn(*size, generator=generator) for size in ((7, d), (30, d), (7, k)))
    chosen = torch.randint(0, 30, (7, k), generator=generator)
    torch.testing.assert_close(gathered_dot(queries, items, chosen), plain(queries, items, chosen))
    expected = gather_module._sparse_products(grad, queries, items, chosen)
    for _ in range(2):  # the tables of sums are used again
        found = gather_module._backward_cpu(grad, queries, items, chosen)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_both_backward_paths_equal_autograd(data: st.DataObject) -> None:
    """In float64, any shape: no rows, no columns, and one item over and over."""
    n, k, width, n_items = (data.draw(st.integers(least, most)) for least, most in ((0, 4), (0, 5), (1, 3), (1, 4)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    queries, items, grad = (
        torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((n, width), (n_items, width), (n, k))
    )
    chosen = torch.randint(0, n_items, (n, k), generator=generator)
    leaves = queries.clone().requires_grad_(), items.clone().requires_grad_()
    expected = torch.autograd.grad(plain(*leaves, chosen), leaves, grad)
    for backward in (gather_module._backward, gather_module._backward_cpu):
        for found, wanted in zip(backward(grad, queries, items, chosen), expected, strict=True):
            torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gather_module._forward(queries, items, chosen), plain(queries, items, chosen))


@pytest.mark.parametrize("wrong", [-1, 20])
@pytest.mark.parametrize("sampled", [True, False])
def test_an_item_that_is_not_there_is_refused(wrong: int, sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather_module, "_has_sampled_product", lambda: sampled)
    queries, items, chosen = inputs()
    chosen[4, 3] = wrong
    with pytest.raises(IndexError):
        gathered_dot(queries, items, chosen)


def test_a_torch_without_a_sampled_product_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_lists, "kernels", lambda: None)

    def missing(*_: object) -> Tensor:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gather_module, "_sampled_product", missing)
    gather_module._has_sampled_product.cache_clear()
    try:
        queries, items, chosen = inputs()
        torch.testing.assert_close(gathered_dot(queries, items, chosen), plain(queries, items, chosen))
    finally:
        gather_module._has_sampled_product.cache_clear()


def test_an_empty_set_has_a_gradient_of_zero() -> None:
    queries, items, _ = inputs()
    gathered_dot(queries, items, torch.zeros(9, 0, dtype=torch.int64)).sum().backward()
    assert queries.grad is not None and items.grad is not None
    assert queries.grad.abs().sum() == 0 and items.grad.abs().sum() == 0


def test_runs_in_float32_under_autocast() -> None:
    queries, items, chosen = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gathered_dot(queries.bfloat16(), items, chosen)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert queries.grad is not None and items.grad is not None


def test_a_gradient_that_is_not_contiguous() -> None:
    queries, items, chosen = inputs()
    gathered_dot(queries, items, chosen).T.contiguous().T.sum().backward()
    assert queries.grad is not None
    torch.testing.assert_close(queries.grad, items[chosen].sum(1).detach())
