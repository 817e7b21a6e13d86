"""Dot products at chosen items, without a ``B x K x d`` gradient in the backward pass.

On a CPU compiled kernels read the rows of the items ahead into the cache (:mod:`recbole_kd.ops.kernels.listed`); they
take a third and a half of the time of the ways below, which serve float64 and installations without numba. The forward
pass is then torch's sampled product, which gathers nothing. The backward pass of "gather rows, then dot" is two sparse
products: with G the ``B x I`` matrix that holds the incoming gradient at the chosen items, ``dQ = G V`` and
``dV = G^T Q``. On a CPU scipy's CSR/CSC kernels compute them some fifty times faster than scattering ``B x K`` rows
(measured by `recbole-kd benchmark`). On other devices index_add_ scatters in place.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_kd.ops import compiled_lists

CHUNK_BYTES = 32 * 2**20
"""Memory budget for gathered item vectors, in bytes."""


def gathered_dot(queries: Tensor, items: Tensor, chosen: Tensor) -> Tensor:
    """Return the scores of each query at its own items.

    Args:
        queries: float ``[B, d]``. items: float ``[I, d]``. chosen: int64 or int32 ``[B, K]``, row ids into ``items``.

    Returns:
        float32 ``[B, K]`` (float64 for float64 inputs), differentiable in ``queries`` and ``items``. Runs in float32
        under autocast too.
    """
    queries, items = (x if x.dtype == torch.float64 else x.float() for x in (queries, items))
    chosen = chosen.long()  # the kernels serve no other type
    if torch.compiler.is_compiling():
        return (items[chosen] * queries.unsqueeze(1)).sum(2)  # the compiler fuses this, and gathers nothing
    result: Tensor = _GatheredDot.apply(queries, items, chosen)
    return result


def _sampled_product(queries: Tensor, items: Tensor, chosen: Tensor) -> Tensor:
    """Return the dot products by torch's sampled product: 3 to 8 times faster on a CPU.

    It gathers nothing. Its CSR pattern is not in canonical form (columns unsorted, perhaps repeated), but the kernel
    handles each entry on its own.
    """
    n, k = chosen.shape
    starts = torch.arange(n + 1) * k
    entries = torch.zeros(n * k, dtype=queries.dtype)
    pattern = torch.sparse_csr_tensor(starts, chosen.reshape(-1), entries, size=(n, len(items)), check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, queries, items.T, beta=0.0).values().view(n, k)


def _check_ids(chosen: Tensor, n_items: int) -> None:
    """Refuse ids outside the table (IndexError): the kernels would read past it."""
    least, most = chosen.aminmax()
    if int(least) < 0 or int(most) >= n_items:
        raise IndexError(
            f"Invalid items: found ids from {int(least)} to {int(most)}, expected ids from 0 to {n_items - 1} "
            f"(a table of {n_items})."
        )


@cache
def _has_sampled_product() -> bool:
    """Check whether this torch has a sampled product for CPUs that gives the right result.

    The check also triggers torch's one-time warning that CSR is in beta, so that users do not see it.
    """
    queries, items = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
    chosen = torch.tensor([[3, 0, 3], [2, 2, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = _sampled_product(queries, items, chosen)
        except (RuntimeError, TypeError, AttributeError):
            return False
    return torch.equal(found, (queries @ items.T).gather(1, chosen))


def _forward(queries: Tensor, items: Tensor, chosen: Tensor) -> Tensor:
    n, k = chosen.shape
    on_cpu = queries.device.type == "cpu" and queries.dtype in (torch.float32, torch.float64)
    if on_cpu and n and k and chosen.dtype == torch.int64:
        _check_ids(chosen, len(items))
        found = compiled_lists.listed_products(queries.detach(), items.detach(), chosen)
        if found is not None:
            return found
    if (
        on_cpu and 0 < k <= len(items) and n and _has_sampled_product()
    ):  # torch refuses more entries than the dense matrix has
        return _sampled_product(queries.detach(), items.detach(), chosen)
    out = torch.empty(n, k, dtype=queries.dtype, device=queries.device)
    step = max(1, CHUNK_BYTES // (4 * max(1, k * queries.shape[1])))
    with torch.autocast(device_type=queries.device.type, enabled=False):
        for start in range(0, n, step):
            rows = slice(start, start + step)
            block = chosen[rows]
            vectors = items.index_select(0, block.reshape(-1)).view(*block.shape, items.shape[1])
            out[rows] = torch.bmm(vectors, queries[rows].unsqueeze(2)).squeeze(2)
    return out


def _backward_cpu(grad: Tensor, queries: Tensor, items: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    found = compiled_lists.listed_product_gradients(grad, queries, items, chosen)
    return _sparse_products(grad, queries, items, chosen) if found is None else found


def _sparse_products(grad: Tensor, queries: Tensor, items: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    n, k = chosen.shape
    starts = (torch.arange(n + 1) * k).numpy()
    matrix = sp.csr_matrix(
        (grad.reshape(-1).numpy(), chosen.reshape(-1).numpy(), starts), shape=(n, items.shape[0]), copy=False
    )
    return torch.from_numpy(matrix @ items.numpy()), torch.from_numpy(matrix.T @ queries.numpy())


def _backward(grad: Tensor, queries: Tensor, items: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    d_queries = torch.empty_like(queries)
    d_items = torch.zeros_like(items)
    step = max(1, CHUNK_BYTES // (4 * max(1, chosen.shape[1] * queries.shape[1])))
    for start in range(0, len(chosen), step):
        rows = slice(start, start + step)
        block, g = chosen[rows], grad[rows]
        vectors = items.index_select(0, block.reshape(-1)).view(*block.shape, items.shape[1])
        d_queries[rows] = torch.bmm(g.unsqueeze(1), vectors).squeeze(1)
        d_items.index_add_(0, block.reshape(-1), (g.unsqueeze(2) * queries[rows].unsqueeze(1)).flatten(0, 1))
    return d_queries, d_items


class _GatheredDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, items: Tensor, chosen: Tensor) -> Tensor:
        ctx.save_for_backward(queries, items, chosen)
        return _forward(queries, items, chosen)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, items, chosen = (t.detach() for t in ctx.saved_tensors)
        grad = grad.contiguous()
        on_cpu = grad.device.type == "cpu" and grad.dtype in (torch.float32, torch.float64)
        d_queries, d_items = (_backward_cpu if on_cpu else _backward)(grad, queries, items, chosen)
        return d_queries, d_items, None
