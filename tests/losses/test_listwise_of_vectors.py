"""The list-wise loss from vectors: the compiled pass against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_kd.losses import listwise_of_vectors as module
from recbole_kd.losses.listwise_of_vectors import listwise_of_vectors
from recbole_kd.losses.ranking import listwise_loss
from recbole_kd.ops import compiled as compiled_ops
from recbole_kd.ops.gathered_dot import gathered_dot

compiled = pytest.mark.skipif(compiled_ops.kernels() is None, reason="numba is not installed")


@pytest.fixture(autouse=True)
def at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIRS_FROM", 0)


def case(seed: int, scale: float, d: int, k: int, n: int) -> list[Tensor]:
    """Vectors of five queries, item vectors, the queries, their lists and the rest; both lists have gaps.

    The list of query 0 is empty, and so is the rest of query 3.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(5, d, generator=generator, requires_grad=True)
    items = (scale * torch.randn(40, d, generator=generator)).requires_grad_()
    listed, rest = (torch.randint(0, 40, (9, width), generator=generator) for width in (k, n))
    listed[0], rest[3] = 0, 0
    return [vectors, items, torch.tensor([3, 0, 7, 8, 5]), listed, rest]


def plain_total(vectors: Tensor, items: Tensor, queries: Tensor, listed: Tensor, rest: Tensor) -> Tensor:
    ids, k = torch.cat([listed, rest], dim=1)[queries], listed.shape[1]
    scores, valid = gathered_dot(vectors, items, ids), ids > 0
    return listwise_loss(scores[:, None, :k], scores[:, k:], valid[:, None, :k], valid[:, k:]).sum()


@compiled
@pytest.mark.parametrize(
    ("scale", "d", "k", "n"), [(1.0, 20, 12, 30), (1.0, 5, 1, 3), (3.0, 33, 9, 1), (1e3, 8, 20, 5), (1e-3, 1, 17, 0)]
)
def test_compiled_equals_plain(scale: float, d: int, k: int, n: int) -> None:
    tables = case(k, scale, d, k, n)
    loss, plain = listwise_of_vectors(*tables), plain_total(*tables)
    assert loss is not None and torch.isfinite(loss)
    torch.testing.assert_close(loss, plain, rtol=2e-6, atol=1e-5)
    for factor in (1.0, -0.5):
        found, expected = (
            torch.autograd.grad(factor * total, tables[:2], retain_graph=True) for total in (loss, plain)
        )
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5 * max(1.0, scale))


@compiled
def test_nan_is_not_hidden() -> None:
    tables = case(1, 1.0, 8, 6, 7)
    with torch.no_grad():
        tables[0][2] = torch.nan
    loss = listwise_of_vectors(*tables)
    assert loss is not None and loss.isnan()
    found = torch.autograd.grad(loss, tables[0])[0]
    assert found[2].isnan().all() and torch.isfinite(found[[0, 1, 3, 4]]).all()


def test_other_types_and_missing_kernels_take_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, items, *ids = case(2, 1.0, 8, 6, 7)
    assert listwise_of_vectors(vectors.double(), items.double(), *ids) is None
    assert listwise_of_vectors(vectors.to("meta"), items.to("meta"), *ids) is None
    monkeypatch.setattr(compiled_ops, "kernels", lambda: None)
    assert listwise_of_vectors(vectors, items, *ids) is None
