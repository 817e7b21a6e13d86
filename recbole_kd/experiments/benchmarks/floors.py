"""Floors: the minimum seconds of a phase on this machine, from its bytes and operations.

Two rates are measured first: the bandwidth of a copy (read and written bytes count) and the rate of a float32 matrix
product. The floor of a phase is the larger of bytes / bandwidth and operations / rate. Bytes are those that any
implementation must read from or write to memory. A table counts once per pass or batch, however often its rows are
read, because a cache may hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

COPIED = 2**26
"""Numbers in the copy, more than any cache holds."""

SIDE = 2048
TRIES = 5


@dataclass(frozen=True)
class Machine:
    """The measured rates of a machine.

    Attributes:
        bandwidth: bytes per second of a copy.
        rate: operations per second of a matrix product.
    """

    bandwidth: float
    rate: float


def measure(device: torch.device) -> Machine:
    """Measure both rates, each the best of some tries, with torch's current threads."""
    source, target = torch.ones(COPIED, device=device), torch.zeros(COPIED, device=device)
    left, right, product = (torch.ones(SIDE, SIDE, device=device) for _ in range(3))
    copy = _seconds(lambda: target.copy_(source), device)
    multiply = _seconds(lambda: torch.mm(left, right, out=product), device)
    return Machine(2 * 4 * COPIED / copy, 2 * SIDE**3 / multiply)


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    best = float("inf")
    for _ in range(TRIES):
        started = perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, perf_counter() - started)
    return best


@dataclass(frozen=True)
class Work:
    """The sizes of an epoch.

    Attributes:
        users, items: sizes of the catalogue.
        width: width of the student's vectors.
        layers: layers of its graph propagation, 0 without a graph.
        rows: training rows.
        batches: number of batches.
        parameters: trained parameters.
        queries: distinct queries, summed over the batches.
        listed: items in a query's sets.
        depth: length of the student's top-k list, 0 if it is not ranked.
        teacher_width: width of the teacher's vectors.
        seen: share of the catalogue that an index searches, 1 without an index.
        evaluated: users of an evaluation.
    """

    users: int
    items: int
    width: int
    layers: int
    rows: int
    batches: int
    parameters: int
    queries: int
    listed: int
    depth: int
    teacher_width: int
    seen: float
    evaluated: int


Formula = Callable[[Work], tuple[float, float]]
"""Bytes and operations. Numbers have 4 bytes and ids 8."""


def _base(w: Work, passes: int) -> tuple[float, float]:
    """Return bytes and operations of the base loss.

    Each row has vectors of user, item and negative and two products. A graph has edges (id and weight) and vectors,
    once per layer.
    """
    vectors = min(3 * w.rows, (w.users + w.items) * w.batches)
    layers = w.layers * w.batches
    moved = 4 * w.width * vectors + layers * (12 * 2 * w.rows + 2 * 4 * w.width * (w.users + w.items))
    return passes * moved, passes * (4 * w.width * w.rows + layers * 2 * w.width * 2 * w.rows)


FLOORS: Mapping[str, Formula] = {
    # One product of all query and item vectors: both tables are read, the lists (score and id) are written.
    "topk_refresh": lambda w: (
        4 * w.width * (w.users + w.items) + 12 * w.users * w.depth,
        2 * w.width * w.users * w.items * w.seen if w.depth else 0,
    ),
    # The student's list is read, a number is drawn for each rank, the chosen ids are written.
    "sampling": lambda w: (12 * w.users * w.depth + 8 * w.users * w.listed, w.users * w.depth),
    # One product per listed item: the teacher's tables and the ids are read, scores are written.
    "teacher_scores": lambda w: (
        4 * w.teacher_width * (w.users + w.items) + 12 * w.users * w.listed,
        2 * w.teacher_width * w.users * w.listed,
    ),
    # User, item and negative of each row are read and written.
    "data_loading": lambda w: (2 * 3 * 8 * w.rows, 0),
    "base_loss": lambda w: _base(w, 1),
    # The same is read, gradients are written, and the gradient tables are zeroed once per batch.
    "base_backward": lambda w: (_base(w, 2)[0] + 4 * w.parameters * w.batches, _base(w, 2)[1]),
    # Id, teacher's share and mark of each listed item of a batch's queries, one product each; the item table once per
    # batch.
    "kd_forward": lambda w: (
        13 * w.queries * w.listed + 4 * w.width * (w.queries + w.items * w.batches),
        2 * w.width * w.queries * w.listed,
    ),
    # Id and slope of each, two products; the item table is read, its gradients are read and written once per batch.
    "kd_backward": lambda w: (
        12 * w.queries * w.listed + 4 * w.width * (2 * w.queries + 3 * w.items * w.batches),
        4 * w.width * w.queries * w.listed,
    ),
    # Adam: parameter, gradient and two moments are read, three are written, once per batch.
    "optimiser": lambda w: (7 * 4 * w.parameters * w.batches, 12 * w.parameters * w.batches),
    # One product of the evaluated users' vectors and all item vectors.
    "evaluation": lambda w: (4 * w.width * (w.evaluated + w.items), 2 * w.width * w.evaluated * w.items),
}
"""Phase -> bytes and operations per epoch. A method unlike RCE-KD in a phase gets the floor of its item lists."""


def floors(work: Work, machine: Machine) -> dict[str, dict[str, Any]]:
    """Return for each phase its floor in seconds, and whether bytes or operations bind."""
    found = {}
    for phase, formula in FLOORS.items():
        moved, done = formula(work)
        by_bytes, by_operations = moved / machine.bandwidth, done / machine.rate
        found[phase] = {
            "seconds": max(by_bytes, by_operations),
            "bound_by": "bytes" if by_bytes >= by_operations else "operations",
        }
    return found
