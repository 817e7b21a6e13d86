"""Comparison of an export with its student: top lists, NDCG on the test part, and scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.errors import StudentError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import blocks, strike_out, top_k
from recbole_kd.serving.exports.exported import Exported, ScoredExport
from recbole_kd.serving.student_scores import Full

if TYPE_CHECKING:
    from recbole_kd.serving.student import Student

K = 10
MOST_USERS = 10_000
"""Maximum number of users that are compared, evenly spaced."""
USERS_PER_BATCH = 512
TOLERANCE = 1e-5
"""Tolerance of exact scores and of ties, relative to the largest score."""


@dataclass
class Comparison:
    """The agreement of two rankings of the same users.

    Attributes:
        users: number of compared users.
        overlap: sum over users of the share of the student's list that is also in the export's.
        other_lists: number of users whose two lists hold different items.
        beyond_ties: number of those whose list in the export has an item that the student scores below its own last one
            by more than the tolerance.
        difference: largest difference of a score.
        largest: largest magnitude of a score.
        ndcg, exported_ndcg: sums over users with a test item.
        tested: number of users with a test item.
    """

    users: int = 0
    overlap: float = 0.0
    other_lists: int = 0
    beyond_ties: int = 0
    difference: float = 0.0
    largest: float = 0.0
    ndcg: float = 0.0
    exported_ndcg: float = 0.0
    tested: int = 0


def parity(student: Student, exported: Exported) -> dict[str, Any]:
    """Return the agreement of an export with its student.

    Lists and scores are those of a service: all known items of a user are read and left out. NDCG is that of the run's
    test, with its masks and the histories before the test item. It is None if the student has no test items.

    Args:
        student: the student.
        exported: the export.

    Returns:
        top10_overlap, other_lists and beyond_ties of the users; score_difference, largest_score; ndcg@10 of the export
        and student_ndcg@10.
    """
    users = compared_users(len(student.users) - 1)
    serving = _compared(student, exported, users, False, student.known.everything)
    found = {
        "users": serving.users,
        "top10_overlap": serving.overlap / serving.users,
        "other_lists": serving.other_lists,
        "beyond_ties": serving.beyond_ties,
        "score_difference": serving.difference,
        "largest_score": serving.largest,
        "ndcg@10": None,
        "student_ndcg@10": None,
    }
    tested = _compared(student, exported, users, True, student.known.masked)
    if tested.tested:
        # The published protocol averages over all users, RecBole's over those with a test item.
        n = len(users) if student.config.get("eval_protocol") == "paper" else tested.tested
        found |= {"ndcg@10": tested.exported_ndcg / n, "student_ndcg@10": tested.ndcg / n}
    return found


def refuse_difference(name: str, found: dict[str, Any]) -> None:
    """Refuse an exact form whose scores or lists differ from the student's.

    Raises:
        StudentError: names the difference.
    """
    if not found["score_difference"] <= TOLERANCE * found["largest_score"]:  # also refuses NaN
        raise StudentError(
            f"The form {name} does not score as the student: a score differs by {found['score_difference']:.3g}, of a "
            f"largest score of {found['largest_score']:.3g}; nothing was written, please report it"
        )
    if found["beyond_ties"]:
        raise StudentError(
            f"The form {name} does not rank as the student: the top {K} of {found['beyond_ties']} of {found['users']} "
            "users differ by more than ties; nothing was written, please report it"
        )


def compared_users(n_users: int) -> Tensor:
    """Return the users to be compared, int64 ``[n]``: all, or evenly spaced ones."""
    return torch.linspace(1, n_users, min(n_users, MOST_USERS), dtype=torch.float64).long()


def _compared(student: Student, exported: Exported, users: Tensor, as_tested: bool, seen: Ragged) -> Comparison:
    found = Comparison()
    k = min(K, len(student.items) - 1)
    for some in users.split(USERS_PER_BATCH):
        of_some = seen.of_rows(some)
        ids, scores = exported.top_k(some, as_tested, k, of_some)
        theirs = exported.of_users(some, as_tested) if isinstance(exported, ScoredExport) else None
        targets = student.known.test_items.of_rows(some) if as_tested else None
        with student.scores.of_users(some, as_tested) as full:
            for rows in blocks(len(some), len(student.items)):
                at = torch.arange(rows.start, rows.stop)
                _add(found, (full, theirs), at, (ids[rows], scores[rows]), of_some, targets)
    return found


def _add(
    found: Comparison,
    both: tuple[Full, Full | None],
    at: Tensor,
    listed: tuple[Tensor, Tensor],
    seen: Ragged,
    targets: Ragged | None,
) -> None:
    """Add the comparison of some users of a batch.

    Args:
        found: the comparison so far.
        both: scores of student and export. The latter is None if the export scores only the items of its lists.
        at: int64 ``[b]``, rows in the batch.
        listed: ids and scores of the export's lists, ``[b, k]``.
        seen: items that are left out.
        targets: test items, or None.
    """
    ids, scores = listed
    wanted = both[0](at).clone()
    found.largest = max(found.largest, float(wanted[:, 1:].abs().max()))
    own, theirs = (wanted.gather(1, ids), scores) if both[1] is None else (wanted, both[1](at))
    differences = (own - theirs)[:, 1:].abs() if both[1] else (own - theirs)[ids > 0].abs()
    found.difference = _larger(found.difference, float(differences.max()) if differences.numel() else 0.0)
    strike_out(wanted, at, seen)
    own_ids, own_scores = top_k(wanted, ids.shape[1])
    own_ids = own_ids.masked_fill(own_scores == -torch.inf, 0)
    _add_lists(found, own_ids, own_scores, ids, wanted.gather(1, ids))
    if targets is not None:
        gains = [_ndcg(lists, at, targets) for lists in (own_ids, ids)]
        found.ndcg += float(gains[0].sum())
        found.exported_ndcg += float(gains[1].sum())
        found.tested += int((targets.counts()[at] > 0).sum())


def _larger(first: float, second: float) -> float:
    """Return the larger number, NaN if one of them is NaN."""
    return float(np.maximum(first, second))


def _add_lists(found: Comparison, own: Tensor, own_scores: Tensor, ids: Tensor, scores: Tensor) -> None:
    """Add the comparison of lists, int64 ``[b, k]`` with 0 after their end.

    ``scores`` are the student's scores of the export's items.
    """
    shared = ((own.unsqueeze(2) == ids.unsqueeze(1)) & (own > 0).unsqueeze(2)).any(2).sum(1)
    n_own = (own > 0).sum(1)
    other = (shared < n_own) | ((ids > 0).sum(1) != n_own)
    last = own_scores.masked_fill(own == 0, torch.inf).amin(1, keepdim=True)
    tolerance = TOLERANCE * found.largest
    short = (ids > 0).sum(1) != n_own
    beyond = short | ((ids > 0) & ~(scores >= last - tolerance)).any(1)
    found.users += len(own)
    found.overlap += float((shared / n_own.clamp(min=1)).masked_fill(n_own == 0, 1.0).sum())
    found.other_lists += int(other.sum())
    found.beyond_ties += int((other & beyond).sum())


def _ndcg(lists: Tensor, at: Tensor, targets: Ragged) -> Tensor:
    """Return the NDCG of lists, int64 ``[b, k]`` -> float64 ``[b]``; 0 without a test item."""
    gains = 1 / torch.arange(2, lists.shape[1] + 2, dtype=torch.float64).log2()
    hits = targets.contains(at, lists) & (lists > 0)
    best = torch.cat([gains.new_zeros(1), gains.cumsum(0)])
    ideal = best[targets.counts()[at].clamp(max=len(gains))]
    return torch.where(ideal > 0, (hits * gains).sum(1) / ideal.clamp(min=1e-12), 0.0)
