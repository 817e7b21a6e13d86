"""Floors: the seconds that a phase must take on this machine, from the bytes it must move and the operations it must do.

Both rates are measured first: the bandwidth of a copy, read and written bytes counted, and the rate of a float32 matrix
    product. The floor
of a phase is the larger of bytes over bandwidth and operations over rate. Bytes are those that must come from or go to
memory whatever is
clever: a table is counted once a pass or batch, however often its rows are asked for, since a cache may hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

COPIED = 2**26
"""Numbers in the copy: more than any cache holds."""

SIDE = 2048
TRIES = 5


@dataclass(frozen=True)
class Machine:
    """Measured rates: bytes a second of a copy, operations a second of a matrix product."""

    bandwidth: float
    rate: float


def measure(device: torch.device) -> Machine:
    """Best of some tries each, with the threads that torch has."""
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
    """What an epoch deals with.

    Attributes:
        users, items: of the catalogue. width: of the student's vectors. layers: of its graph propagation, 0 without.
        rows: training rows. batches: of them. parameters: that are trained.
        queries: distinct queries, added up over the batches. listed: items of a query's sets. depth: of the student's
            top-k list, 0 where none is asked for. teacher_width: of the teacher's vectors. seen: the share of the
            catalogue that an index looks at, 1 without.
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
"""Bytes and operations. Numbers have 4 bytes, ids 8."""


def _base(w: Work, passes: int) -> tuple[float, float]:
    """Vectors of user, item and negative of each row, two products a row; a graph's edges (id and weight) and vectors, once a layer."""
    vectors = min(3 * w.rows, (w.users + w.items) * w.batches)
    layers = w.layers * w.batches
    moved = 4 * w.width * vectors + layers * (12 * 2 * w.rows + 2 * 4 * w.width * (w.users + w.items))
    return passes * moved, passes * (4 * w.width * w.rows + layers * 2 * w.width * 2 * w.rows)


FLOORS: Mapping[str, Formula] = {
    # one product of all query and item vectors; both tables read, the lists (score and id) written
    "topk_refresh": lambda w: (
        4 * w.width * (w.users + w.items) + 12 * w.users * w.depth,
        2 * w.width * w.users * w.items * w.seen if w.depth else 0,
    ),
    # the student's list read, a number drawn for each place, the chosen ids written
    "sampling": lambda w: (12 * w.users * w.depth + 8 * w.users * w.listed, w.users * w.depth),
    # a product for each listed item: the teacher's tables and the ids read, scores written
    "teacher_scores": lambda w: (
        4 * w.teacher_width * (w.users + w.items) + 12 * w.users * w.listed,
        2 * w.teacher_width * w.users * w.listed,
    ),
    # user, item and negative of each row, read and written
    "data_loading": lambda w: (2 * 3 * 8 * w.rows, 0),
    "base_loss": lambda w: _base(w, 1),
    # the same read and gradients written, the gradient tables filled with zeros once a batch
    "base_backward": lambda w: (_base(w, 2)[0] + 4 * w.parameters * w.batches, _base(w, 2)[1]),
    # id, teacher's share and mark of each listed item of a batch's queries, a product each; the item table once a batch
    "kd_forward": lambda w: (
        13 * w.queries * w.listed + 4 * w.width * (w.queries + w.items * w.batches),
        2 * w.width * w.queries * w.listed,
    ),
    # id and slope of each, two products; the item table read, its gradients read and written once a batch
    "kd_backward": lambda w: (
        12 * w.queries * w.listed + 4 * w.width * (2 * w.queries + 3 * w.items * w.batches),
        4 * w.width * w.queries * w.listed,
    ),
    # Adam: parameter, gradient and two moments read, three written, once a batch
    "optimiser": lambda w: (7 * 4 * w.parameters * w.batches, 12 * w.parameters * w.batches),
    # one product of the evaluated users' and all item vectors
    "evaluation": lambda w: (4 * w.width * (w.evaluated + w.items), 2 * w.width * w.evaluated * w.items),
}
"""Phase -> bytes and operations an epoch. A method that does other things than RCE-KD in a phase has the floor of its item lists."""


def floors(work: Work, machine: Machine) -> dict[str, dict[str, Any]]:
    """Of each phase: seconds, and whether bytes or operations bind."""
    found = {}
    for phase, formula in FLOORS.items():
        moved, done = formula(work)
        by_bytes, by_operations = moved / machine.bandwidth, done / machine.rate
        found[phase] = {
            "seconds": max(by_bytes, by_operations),
            "bound_by": "bytes" if by_bytes >= by_operations else "operations",
        }
    return found
