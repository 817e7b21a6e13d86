"""HSTU's softmax over all items: dense cross-entropy in blocks, without a matrix of positions by items."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from recbole_kd.losses import catalogue_softmax
from recbole_kd.model.full_softmax import full_softmax


def made(n: int, n_items: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    queries, items = (normalize(torch.randn(rows, d, dtype=torch.float64), dim=1) for rows in (n, n_items))
    items[0] = 0
    positives = torch.randint(1, n_items, (n,))
    return queries.to(dtype).requires_grad_(), items.to(dtype).requires_grad_(), positives


@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float64, 1e-10, 1e-12), (torch.float32, 1e-4, 1e-6)])
@pytest.mark.parametrize("block_bytes", [1, 12 * 5 * 4, 10**7])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_it_is_dense_cross_entropy(
    temperature: float,
    block_bytes: int,
    dtype: torch.dtype,
    rtol: float,
    atol: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalogue_softmax, "CPU_BLOCK_BYTES", block_bytes)
    queries, items, positives = made(23, 12, 6, dtype)
    wide = [x.detach().double().requires_grad_() for x in (queries, items)]
    want = cross_entropy(wide[0] @ wide[1][1:].T / temperature, positives - 1)
    wanted = torch.autograd.grad(3 * want, wide)
    got = full_softmax(queries, items, positives, temperature)
    torch.testing.assert_close(got.double(), want, rtol=rtol, atol=atol)
    for mine, theirs in zip(torch.autograd.grad(3 * got, (queries, items)), wanted, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=rtol, atol=atol)
    with torch.no_grad():
        silent = full_softmax(queries, items, positives, temperature)
    assert torch.equal(silent, got) and not silent.requires_grad


def test_the_pad_is_no_candidate() -> None:
    queries, items, positives = made(5, 4, 3, torch.float32)
    loss = full_softmax(queries, items, positives, 0.5)
    with torch.no_grad():
        items[0] = 100.0
    assert torch.equal(full_softmax(queries, items, positives, 0.5), loss)
    assert not torch.autograd.grad(loss, items)[0][0].any()


def test_no_position_costs_nothing() -> None:
    queries, items, positives = made(0, 4, 3, torch.float32)
    loss = full_softmax(queries, items, positives, 0.05)
    assert loss.item() == 0 and not any(g.any() for g in torch.autograd.grad(loss, (queries, items)))


def test_it_is_finite_at_large_scores_and_lets_nan_through() -> None:
    items = torch.tensor([[0.0], [25.0], [-25.0]]).expand(3, 4).clone().requires_grad_()
    queries = torch.full((3, 4), 100.0, requires_grad=True)
    loss = full_softmax(queries, items, torch.tensor([2, 1, 2]), 0.05)
    assert loss.isfinite() and all(g.isfinite().all() for g in torch.autograd.grad(loss, (queries, items)))
    assert full_softmax(queries * torch.nan, items, torch.tensor([2, 1, 2]), 0.05).isnan()


def test_no_scores_of_a_whole_batch_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_softmax, "CPU_BLOCK_BYTES", 2**19)
    queries, items, positives = made(2000, 3000, 8, torch.float32)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            sizes = [t.numel() for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, Tensor)]
            largest = max([largest, *sizes])
            return out

    with Watch():
        full_softmax(queries, items, positives, 0.05).backward()
    assert largest <= 2**17
