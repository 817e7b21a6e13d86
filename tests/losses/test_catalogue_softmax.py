"""The softmax over all items from one compiled pass, against torch in float64 and against the blocks of rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recbole_kd.losses import catalogue_softmax as module
from recbole_kd.losses.catalogue_softmax import catalogue_softmax
from recbole_kd.ops import compiled, compiled_catalogue

pytestmark = pytest.mark.skipif(compiled.kernels() is None, reason="numba is not installed")


def made(n: int, n_items: int, d: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + d)
    queries, items = (d**-0.5 * scale * torch.randn(rows, d, generator=generator) for rows in (n, n_items))
    targets = torch.randint(0, n_items, (n,), generator=generator)
    targets[0], targets[-1] = n_items - 1, 0
    return queries.requires_grad_(), items.requires_grad_(), targets


def with_gradients(loss: Tensor, tables: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(3 * loss, tables)]


@pytest.fixture
def one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve small tables by the kernel too, and let the blocks of rows fail."""
    monkeypatch.setattr(compiled_catalogue, "SCORES_FROM", 1)
    monkeypatch.setattr(module, "_in_blocks", lambda *_: pytest.fail("the compiled pass was left out"))


@pytest.mark.parametrize(
    ("n", "n_items", "d"), [(1, 1, 1), (3, 16, 5), (33, 17, 8), (70, 400, 20), (31, 50, 64), (64, 1000, 16)]
)
@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_it_is_torchs_at_any_size(n: int, n_items: int, d: int, scale: float, one_pass: None) -> None:
    queries, items, targets = made(n, n_items, d, scale)
    found = with_gradients(catalogue_softmax(queries, items, targets), (queries, items))
    wide = queries.detach().double().requires_grad_(), items.detach().double().requires_grad_()
    wanted = with_gradients(cross_entropy(wide[0] @ wide[1].T, targets), wide)
    for ours, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-6 * max(1.0, scale))


def test_two_threads_give_the_same_bits(one_pass: None) -> None:
    queries, items, targets = made(50, 300, 20)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(with_gradients(catalogue_softmax(queries, items, targets), (queries, items)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("fault", ["long", "nan", "wide", "double"])
def test_what_the_kernel_does_not_serve_goes_to_the_blocks(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_catalogue, "SCORES_FROM", 1)
    calls = []
    blocks = module._in_blocks
    monkeypatch.setattr(module, "_in_blocks", lambda *tables: calls.append(1) or blocks(*tables))
    queries, items, targets = made(9, 40, 80 if fault == "wide" else 8)
    scale = {"long": 1e4, "nan": torch.nan}.get(fault, 1.0)
    own = queries.double() if fault == "double" else queries * scale
    loss = catalogue_softmax(own, items.to(own.dtype), targets)
    assert calls == [1] and bool(loss.isnan()) is (fault == "nan")
    if fault != "nan":
        torch.testing.assert_close(loss, cross_entropy(own @ items.to(own.dtype).T, targets), rtol=1e-4, atol=1e-6)


def test_a_target_outside_the_catalogue_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_catalogue, "SCORES_FROM", 1)
    queries, items, targets = made(9, 40, 8)
    for wrong in (-1, 40):
        with pytest.raises((IndexError, RuntimeError)):
            catalogue_softmax(queries, items, targets.index_fill(0, torch.tensor([3]), wrong))
