"""Dot products at chosen items: forward and backward equal the plain gather."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_kd import gather
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
