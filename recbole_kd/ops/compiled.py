"""Compiled kernels for torch tensors on a CPU.

Each function returns None if its kernel does not apply; the caller then uses plain PyTorch. The kernels need numba
(extra ``fast``). Rankings, ranks and memberships equal those of plain PyTorch bit by bit. No RecBole import.
"""

from __future__ import annotations

import atexit
import math
import os
import shutil
import tempfile
from functools import cache
from importlib import import_module
from logging import getLogger
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.ops.threads import in_halves, n_threads

KERNELS = "recbole_kd.ops.kernels.ranking"

MOST_VALUES = 2**26
"""Upper bound of the values that :func:`first_distinct` accepts: it holds one 32-bit number for each value."""


IDS_FOR_TWO = 2**18
"""A second thread pays from a membership test of so many ids."""


def kernels() -> Any:
    """Return the module of ranking kernels, or None.

    None without numba, and while ``torch.compile`` traces the caller.
    """
    return None if torch.compiler.is_compiling() else _loaded_kernels()


@cache
def _loaded_kernels() -> Any:
    try:
        return import_module(KERNELS)
    except ImportError:
        return None
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
    return _with_temporary_cache()


def _with_temporary_cache() -> Any:
    """Return the module of kernels, compiled into a temporary folder, or None.

    None means that no folder is writable. The folder is removed at exit. numba stores its compiled code beside the
    source or below the home folder. In a container the package may be read-only and the home folder missing: numba then
    raises RuntimeError at each function.
    """
    import numba

    try:
        folder = tempfile.mkdtemp(prefix="recbole-kd-numba-")
    except OSError:
        getLogger().warning(
            "The compiled kernels are not used, and the run is slower: no folder for them can be written to. Set "
            "NUMBA_CACHE_DIR to one"
        )
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    numba.config.CACHE_DIR = folder  # type: ignore[attr-defined]
    os.environ["NUMBA_CACHE_DIR"] = folder  # further processes of this run read it
    getLogger().info(
        f"The kernels are compiled again, into {folder}, because neither the package's folder nor the home folder can "
        "be written to: NUMBA_CACHE_DIR names a folder that keeps them"
    )
    return import_module(KERNELS)


@cache
def row_kernels() -> Any:
    """Return the module of softmax kernels; call only if :func:`kernels` is not None."""
    from recbole_kd.ops.kernels import softmax as compiled

    return compiled


@cache
def draw_kernels() -> Any:
    """Return the module of sampling kernels; call only if :func:`kernels` is not None."""
    from recbole_kd.ops.kernels import sampling as compiled

    return compiled


@cache
def unit_kernels() -> Any:
    """Return the module of hidden units' kernels; call only if :func:`kernels` is not None."""
    from recbole_kd.ops.kernels import units as compiled

    return compiled


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor] | None:
    """Return :func:`recbole_kd.ops.topk.top_k` of float32 ``[B, n]`` without NaN and +inf."""
    if kernels() is None or scores.device.type != "cpu" or scores.dtype != torch.float32 or len(scores) == 0:
        return None
    scores = scores.detach().contiguous()
    size = math.isqrt(scores.shape[1] // k)
    n_groups = scores.shape[1] // size
    highest = scores[:, : size * n_groups].unflatten(1, (size, n_groups)).amax(1) if size > 1 else scores
    left_over = scores[:, size * n_groups :]
    if not all(bool(part.amax() < torch.inf) for part in (highest, left_over) if part.numel()):  # also False of NaN
        return None
    ids = torch.empty(len(scores), k, dtype=torch.int64)
    values = torch.empty(len(scores), k)
    kernels().top_rows(scores.numpy(), highest.numpy(), size, k, ids.numpy(), values.numpy())
    return ids, values


def columns_at(scores: Tensor, places: Tensor) -> Tensor | None:
    """Return :func:`recbole_kd.ops.order_statistics.ids_at` of float32 ``[B, n]``.

    None if a score is NaN or +inf.
    """
    if not _serves(scores):
        return None
    ids = torch.empty_like(places)
    kernels().columns_at(scores.detach().contiguous().numpy(), places.contiguous().numpy(), ids.numpy())
    return ids


def counts_above(scores: Tensor, columns: Tensor, most: int) -> Tensor | None:
    """Return :func:`recbole_kd.ops.order_statistics.counts_above` of float32 ``[B, n]``.

    None if a score is NaN or +inf.
    """
    if not _serves(scores):
        return None
    above = torch.empty_like(columns)
    kernels().counts_above(scores.detach().contiguous().numpy(), columns.contiguous().numpy(), most, above.numpy())
    return above


def counts_of_lower(scores: Tensor, wanted: Tensor, wanted_valid: Tensor) -> Tensor | None:
    """Return :func:`recbole_kd.ops.order_statistics.counts_of_lower` of float32 ``[B, n]``.

    None if a score is NaN or +inf, or if a valid wanted score is not finite.
    """
    if not _serves(scores) or wanted.dtype != torch.float32 or not bool((wanted.isfinite() | ~wanted_valid).all()):
        return None
    counts = torch.empty(scores.shape, dtype=torch.int32)
    draw_kernels().counts_of_lower(
        *(part.detach().contiguous().numpy() for part in (scores, wanted, wanted_valid)), counts.numpy()
    )
    return counts


def draw_by_count(counts: Tensor, uniform: Tensor, discounts: Tensor) -> Tensor | None:
    """Draw as :mod:`recbole_kd.ops.sampling_by_count` does, from int32 counts."""
    if kernels() is None or counts.device.type != "cpu" or counts.dtype != torch.int32:
        return None
    ids = torch.empty(uniform.shape[:2], dtype=torch.int64)
    draw_kernels().draw_by_count(counts.contiguous().numpy(), uniform.numpy(), discounts.numpy(), ids.numpy())
    return ids


def first_distinct(drawn: Tensor, n: int) -> tuple[Tensor, Tensor] | None:
    """Return :func:`recbole_kd.ops.sampling.first_distinct` of values in [0, MOST_VALUES)."""
    if kernels() is None or drawn.device.type != "cpu" or drawn.numel() == 0 or n == 0:
        return None
    least, most = (int(value) for value in drawn.aminmax())
    if least < 0 or most >= MOST_VALUES:
        return None
    found, counts = torch.empty(len(drawn), n, dtype=torch.int64), torch.empty(len(drawn), dtype=torch.int64)
    arrays = [values.contiguous().numpy() for values in (drawn, found, counts)]

    def work(rows: slice) -> None:
        some, into, number = (array[rows] for array in arrays)
        draw_kernels().first_distinct(some, most + 1, into, number)

    in_halves(work, len(drawn), n_threads() > 1)
    return found, counts


def items_outside(keys: Tensor, starts: Tensor, queries: Tensor, numbers: Tensor) -> Tensor | None:
    """Return the ids of :meth:`recbole_kd.ops.sampling.Outside.item`."""
    if kernels() is None or keys.device.type != "cpu" or numbers.numel() == 0:
        return None
    ids = torch.empty(numbers.shape, dtype=torch.int64)
    arrays = [values.contiguous().numpy() for values in (queries, numbers, ids)]

    def work(rows: slice) -> None:
        draw_kernels().items_outside(keys.numpy(), starts.numpy(), *(array[rows] for array in arrays))

    in_halves(work, len(queries), n_threads() > 1)
    return ids


def full_slopes(scores: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> Tensor | None:
    """Return losses, float32 ``[B]``, and overwrite ``scores`` with their gradient.

    ``scores`` is float32 ``[B, n]``: the student's dot products over the temperature.

    The plain path is in :mod:`recbole_kd.losses.catalogue_cross_entropy`.
    """
    if kernels() is None or scores.device.type != "cpu" or teacher.device.type != "cpu" or scores.numel() == 0:
        return None
    losses, factor = torch.empty(len(scores)), np.float32(1 / temperature)
    arrays = [values.detach().numpy() for values in (scores, teacher, scores.amax(1), teacher.amax(1), weights)]

    def work(rows: slice) -> None:
        row_kernels().full_slopes(*(array[rows] for array in arrays), factor, losses.numpy()[rows])

    in_halves(work, len(scores), n_threads() > 1)
    return losses


def softmax_sums(scores: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return each row's maximum and sum of exp(score - maximum), float32 ``[B]`` each.

    ``scores`` is float32 ``[B, n]``. None if a maximum is not finite.
    """
    if kernels() is None or scores.device.type != "cpu" or scores.dtype != torch.float32 or scores.numel() == 0:
        return None
    tops = scores.amax(1)
    if not bool(tops.isfinite().all()):
        return None
    sums = torch.empty_like(tops)
    arrays = [values.numpy() for values in (scores, tops, sums)]
    in_halves(lambda rows: row_kernels().sums_of_exp(*(array[rows] for array in arrays)), len(scores), n_threads() > 1)
    return tops, sums


def softmax_slopes(scores: Tensor, tops: Tensor, sums: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Return ``scale * (softmax(scores) - one_hot(targets))``, float32 ``[B, n]``.

    ``tops`` and ``sums`` come from :func:`softmax_sums`.
    """
    slopes = torch.empty_like(scores)
    arrays = [values.numpy() for values in (scores, tops, sums, targets)]

    def work(rows: slice) -> None:
        row_kernels().softmax_slopes(*(array[rows] for array in arrays), scale, slopes.numpy()[rows])

    in_halves(work, len(scores), n_threads() > 1)
    return slopes


def _serves(scores: Tensor) -> bool:
    if kernels() is None or scores.device.type != "cpu" or scores.dtype != torch.float32 or scores.numel() == 0:
        return False
    return bool(scores.amax() < torch.inf)  # False for NaN too


def is_in(items: Tensor, other: Tensor) -> Tensor | None:
    """Return :func:`recbole_kd.ops.membership.is_in` of int64 ids; negative ids never match."""
    if kernels() is None or items.device.type != "cpu" or items.dtype != torch.int64 or other.dtype != torch.int64:
        return None
    if items.numel() == 0 or other.numel() == 0:
        return torch.zeros_like(items, dtype=torch.bool)
    n_ids = max(int(items.max()), int(other.max()), 0) + 1
    found = torch.empty(items.shape, dtype=torch.bool)
    arrays = [table.contiguous().numpy() for table in (items, other)]

    def work(rows: slice) -> None:
        kernels().members(*(table[rows] for table in arrays), n_ids, found.numpy()[rows])

    in_halves(work, len(items), n_threads() > 1 and items.numel() + other.numel() >= IDS_FOR_TWO)
    return found


def keep_units(units: Tensor, drawn: Tensor, least: int) -> Tensor | None:
    """Return :func:`recbole_kd.losses.embedding.drop_units` of float32 ``[n, h]``, changed in place.

    ``drawn`` is int16 ``[n, h]``; a unit with a number below ``least`` is dropped.
    """
    if kernels() is None or units.device.type != "cpu" or units.dtype != torch.float32 or not units.is_contiguous():
        return None
    alive = torch.empty(units.shape, dtype=torch.bool)
    arrays = [part.numpy() for part in (units, alive, drawn)]

    def work(rows: slice) -> None:
        unit_kernels().keep_units(*(array[rows].reshape(-1) for array in arrays), least)

    in_halves(work, len(units), n_threads() > 1)
    return alive


def mask_units(units: Tensor, alive: Tensor) -> bool:
    """Multiply float32 ``[n, h]`` by bool ``[n, h]`` in place; False if the kernel does not apply."""
    if kernels() is None or units.device.type != "cpu" or units.dtype != torch.float32 or not units.is_contiguous():
        return False
    arrays = [part.numpy() for part in (units, alive.contiguous())]

    def work(rows: slice) -> None:
        unit_kernels().mask_units(*(array[rows].reshape(-1) for array in arrays))

    in_halves(work, len(units), n_threads() > 1)
    return True
