"""Dot products at chosen items: forward and backward equal the plain gather."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_kd import gather, kernels
from recbole_kd.gather import gathered_dot


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(9, 5, generator=generator, dtype=dtype, requires_grad=True)
    items = torch.randn(20, 5, generator=generator, dtype=dtype, requires_grad=True)
    return queries, items, torch.randint(0, 20, (9, 12), generator=generator)  # repeats within rows


def plain(queries: Tensor, items: Tensor, chosen: Tensor) -> Tensor:
    return torch.einsum("bkd,bd->bk", items[chosen], queries)


@pytest.mark.parametrize("chunk_bytes", [1, 300, 2**25])
@pytest.mark.parametrize("path", ["cpu", "any device"])
def test_equals_the_plain_gather(chunk_bytes: int, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "CHUNK_BYTES", chunk_bytes)
    if path == "any device":
        monkeypatch.setattr(gather, "_backward_cpu", gather._backward)
        monkeypatch.setattr(kernels, "AVAILABLE", False)
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


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_both_backward_paths_equal_autograd(data: st.DataObject) -> None:
    """In float64, any shape: no rows, no columns, and one item over and over."""
    n, k, width, n_items = (data.draw(st.integers(least, most)) for least, most in ((0, 4), (0, 5), (1, 3), (1, 4)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    queries, items, grad = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((n, width), (n_items, width), (n, k)))
    chosen = torch.randint(0, n_items, (n, k), generator=generator)
    leaves = queries.clone().requires_grad_(), items.clone().requires_grad_()
    expected = torch.autograd.grad(plain(*leaves, chosen), leaves, grad)
    for backward in (gather._backward, gather._backward_cpu):
        for found, wanted in zip(backward(grad, queries, items, chosen), expected, strict=True):
            torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gather._forward(queries, items, chosen), plain(queries, items, chosen))


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


# -- the compiled kernel ------------------------------------------------------------------------------------------------

needs_numba = pytest.mark.skipif(not kernels.AVAILABLE, reason="numba, the extra `fast`, is not installed")


@needs_numba
@pytest.mark.parametrize(("n", "k", "width", "n_items"), [(9, 12, 5, 20), (300, 150, 20, 999), (1, 1, 1, 1), (0, 3, 4, 5), (3, 0, 4, 5)])
def test_the_kernel_equals_the_plain_form(n: int, k: int, width: int, n_items: int) -> None:
    generator = torch.Generator().manual_seed(n)
    queries, items = torch.randn(n, width, generator=generator), torch.randn(n_items, width, generator=generator)
    chosen = torch.randint(0, n_items, (n, k), generator=generator)
    torch.testing.assert_close(kernels.gathered_dot(queries, items, chosen), gather._plain_forward(queries, items, chosen))
    every_other = kernels.gathered_dot(queries.repeat(1, 2)[:, ::2], items.repeat(1, 2)[:, ::2], chosen)  # strided rows are copied
    torch.testing.assert_close(every_other, plain(queries.repeat(1, 2)[:, ::2], items.repeat(1, 2)[:, ::2], chosen))


@needs_numba
def test_the_kernel_gives_the_same_bits_on_one_thread_and_on_two() -> None:
    queries, items, chosen = (t.detach() for t in inputs())
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(kernels.gathered_dot(queries, items, chosen))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@needs_numba
@pytest.mark.parametrize("wrong", [-1, 20])
def test_the_kernel_refuses_ids_outside_the_table(wrong: int) -> None:
    queries, items, chosen = (t.detach() for t in inputs())
    chosen[3, 4] = wrong
    with pytest.raises(IndexError, match="are not all in a table of 20 rows"):
        kernels.gathered_dot(queries, items, chosen)


def test_float64_and_missing_numba_take_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, items, _ = inputs()
    assert kernels.can_gather(queries, items) == kernels.AVAILABLE
    assert not kernels.can_gather(queries.double(), items)
    monkeypatch.setattr(kernels, "AVAILABLE", False)
    assert not kernels.can_gather(queries, items)
