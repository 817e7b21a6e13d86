"""Compiled CPU kernels (numba, the extra ``fast``): what plain PyTorch does at a fraction of the machine's speed.

The plain form stands beside the caller and is used where numba is not installed or the tensors are not float32 on a CPU; tests compare
the two. A kernel gives the same result whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

AVAILABLE = find_spec("numba") is not None

Array = np.ndarray[Any, Any]

if AVAILABLE:
    from numba import prange
else:
    prange = range  # type: ignore[misc]


def _gathered_dot(queries: Array, items: Array, chosen: Array, out: Array) -> None:
    for b in prange(chosen.shape[0]):
        for k in range(chosen.shape[1]):
            item, total = chosen[b, k], np.float32(0.0)
            for j in range(queries.shape[1]):
                total += queries[b, j] * items[item, j]
            out[b, k] = total


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compiled at the first call and kept on disk; runs on as many threads as torch does."""
    kernels: list[Callable[..., None]] = []

    def call(*arguments: Array) -> None:
        import numba

        if not kernels:
            kernels.append(numba.njit(parallel=True, fastmath=True, cache=True)(function))
        numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))  # type: ignore[attr-defined]
        kernels[0](*arguments)

    return call


_gathered_dot_kernel = _compiled(_gathered_dot)


def can_gather(queries: Tensor, items: Tensor) -> bool:
    """Whether :func:`gathered_dot` serves these tensors."""
    return AVAILABLE and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (queries, items))


def gathered_dot(queries: Tensor, items: Tensor, chosen: Tensor) -> Tensor:
    """``out[b, k] = queries[b] . items[chosen[b, k]]`` without a copy of the gathered rows.

    Args:
        queries: float32 ``[B, d]``. items: float32 ``[I, d]``. chosen: int64 ``[B, K]``, each in 0..I-1.

    Returns:
        float32 ``[B, K]``. Not differentiable.

    Raises:
        IndexError: an id outside the table; the kernel itself does not look.
    """
    if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(items):
        raise IndexError(f"item ids {int(chosen.min())}..{int(chosen.max())} are not all in a table of {len(items)} rows")
    out = torch.empty(chosen.shape, dtype=torch.float32)
    _gathered_dot_kernel(*(t.detach().contiguous().numpy() for t in (queries, items, chosen)), out.numpy())
    return out
