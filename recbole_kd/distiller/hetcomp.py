"""HetComp: easy-to-hard knowledge from the trajectories of one or several teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from recbole_kd.config.value_types import AtMost, Count, ItemCount, Natural, Positive
from recbole_kd.distiller.base import DistillBatch, Distiller
from recbole_kd.losses.hetcomp import coarse_terms, fine_terms, list_distance, merged_lists
from recbole_kd.losses.unlisted_logsumexp import ListedRows, rest_above, rest_above_of, rest_above_rows
from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores

SLACKENING = 0.995
"""Factor by which the threshold alpha shrinks at each update."""


class HetComp(Distiller):
    r"""HetComp: teacher trajectories from easy to hard, then the fine order.

    Kang et al., WWW 2023. Every query has a position :math:`v_u` in each teacher's trajectory (from 0) and learns the
    top-K of that checkpoint. Every ``p`` epochs the student's own top-K is compared with that of the next checkpoint.
    The query moves on if the distance has shrunk to less than 1 / threshold of its last value, or has grown. The
    threshold is :math:`\alpha \cdot 0.995^{epoch // p}`.

    Until all queries have reached the last checkpoint the loss is coarse,
    :math:`-2 \sum_{i \in P} [r_i - \log(e^{r_i} + E)]` over positives and list. E is the sum over all items except
    these and the training items (:func:`recbole_kd.losses.hetcomp.coarse_terms`). From then on the loss is fine:
    ListMLE of positives and of parts of the list, each above the remaining items
    (:func:`recbole_kd.losses.hetcomp.fine_terms`).

    This follows github woriazzc/RCEKD: it keeps the base loss, has the factor 2 and uses all rows of a batch. The
    authors' own code (SeongKu-Kang/HetComp_WWW23) has no base loss, takes each user of a batch once, and weighs the
    coarse loss .01 and the fine loss .005. There are three differences to both: exactly V checkpoints are used, scores
    are not clamped, and a query whose distance is 0 moves on (both codes divide by the distance).

    With several teachers (``--teacher=MF,LightGCN``) each query has a position in each teacher's trajectory, moved as
    above, and learns the merged list of its current checkpoints. The authors' code adds precomputed importances of all
    items and does not show how to compute them. Here an item at rank k of a list weighs :math:`e^{-k/10}`, its gain in
    the distance.

    Args:
        k: K, length of the lists.
        n_checkpoints: V, checkpoints of each teacher.
        p: epochs between updates.
        alpha: threshold of moving on. A larger value moves on later.
        n_positives: training items of each query in the loss, in the order of their ids. If empty, the smallest number
            that any query with training items has.
    """

    in_threads = True
    ranks_student = True

    requires = frozenset({"trajectory"})
    several = True
    mask_train = True
    needs_set_scores = False

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        k: ItemCount = 50,
        n_checkpoints: Count = 3,
        p: Count = 10,
        alpha: Positive = 1.05,
        n_positives: Annotated[Natural, AtMost("n_items")] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.k, self.p, self.alpha, self.n_positives = k, p, alpha, n_positives
        self.n_checkpoints = n_checkpoints
        self._lists: list[Tensor] = []
        self._positives = torch.empty(0, 0, dtype=torch.int64)
        self._most_items = 0
        self._position = torch.empty(0, 0, dtype=torch.int64)
        self._memory: Tensor | None = None
        self._fine = False

    # -- the schedule -------------------------------------------------------------------------------------------------

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        assert self.train_items is not None
        queries = self.all_queries()
        self._lists = [
            torch.stack(
                [checkpoint.top_k(queries, self.k, self.train_items)[0] for checkpoint in self._trajectory(member)]
            )
            for member in self.teacher_scores.members
        ]
        self._positives = _first_items(self.train_items, self.n_positives)
        self._most_items = int(self.train_items.counts().amax())
        self._position = torch.zeros(len(self._lists), len(queries), dtype=torch.int64, device=queries.device)
        self._memory = None
        self._set_targets()

    def follow_epoch(self, epoch: int) -> None:
        if epoch % self.p or epoch < self.p or self._fine:
            return
        own = self.student_scorer.top_k(self.all_queries(), self.k, self.train_items)[0]
        following = torch.stack([self._distance(own, m, 1) for m in range(len(self._lists))])
        if self._memory is None:
            self._memory = following
            return
        ratio = torch.where(following > 0, self._memory / following, torch.inf)
        threshold = self.alpha * SLACKENING ** (epoch // self.p)
        moves = ((ratio > threshold) | (ratio < 1)) & (self._position < self._ends())
        self._position = self._position + moves
        after = torch.stack([self._distance(own, m, 1) for m in range(len(self._lists))])
        self._memory = torch.where(moves, after, self._memory)
        self._set_targets()

    def _trajectory(self, teacher: TeacherScores) -> list[TeacherScores]:
        """Return ``n_checkpoints`` evenly spaced checkpoints that include the last one.

        If the trajectory has no more than that, return all of it.
        """
        trajectory, n = teacher.trajectory() or [teacher], self.n_checkpoints
        if len(trajectory) <= n:
            return trajectory
        return [trajectory[round((place + 1) * len(trajectory) / n) - 1] for place in range(n)]

    def _ends(self) -> Tensor:
        """Return the index of each teacher's last checkpoint, int64 ``[M, 1]``."""
        return torch.tensor([[len(lists) - 1] for lists in self._lists], device=self._position.device)

    def _all_arrived(self) -> bool:
        """Return whether each teacher's mean position, to 2 digits, is its last checkpoint.

        The rounding is that of the published code.
        """
        means = self._position[:, 1:].double().mean(dim=1, keepdim=True)
        return bool(((means * 100).round() / 100 >= self._ends()).all())

    def _distance(self, own: Tensor, teacher: int, ahead: int) -> Tensor:
        """Return the distance of the student's lists to a later checkpoint's, float64 ``[U]``.

        The checkpoint is ``ahead`` steps after the current one, at most the last.
        """
        lists = self._lists[teacher]
        at = (self._position[teacher] + ahead).clamp(max=len(lists) - 1)
        return list_distance(own, lists[at, self.all_queries()])

    def _set_targets(self) -> None:
        queries = self.all_queries()
        current = torch.stack([lists[at, queries] for lists, at in zip(self._lists, self._position, strict=True)])
        self.item_sets = {"top": current[0] if len(current) == 1 else merged_lists(current)}
        self._fine = self._all_arrived()

    # -- loss ---------------------------------------------------------------------------------------------------------

    def forward(self, batch: DistillBatch) -> Tensor:
        assert self.train_items is not None
        positives, tops = self._positives[batch.queries], batch.sets["top"].ids
        listed, m, scorer = torch.cat([positives, tops], dim=1), positives.shape[1], self.student_scorer
        scores, valid = scorer.at(batch.queries, listed), listed != 0
        make = fine_terms if self._fine else coarse_terms
        terms = make(scores[:, :m], scores[:, m:], valid[:, :m], valid[:, m:])
        rows = ListedRows(batch.queries, listed, self.train_items, self._most_items)
        factors = terms.factors * batch.weights.unsqueeze(1)
        known = scorer.known_rows(batch.queries)
        if known is not None:
            of_rest = rest_above_rows(*known, rows, terms.below, factors)
        elif scorer.has_vectors:
            of_rest = rest_above(scorer.query_vectors(batch.queries), scorer.item_table(), rows, terms.below, factors)
        else:
            of_rest = rest_above_of(scorer.full, scorer.n_items, rows, terms.below, factors)
        return self.reduce_total((terms.constant * batch.weights).sum() + of_rest, batch.weights)

    def diagnostics(self) -> dict[str, float]:
        last = (self._position == self._ends())[:, 1:]
        return {
            "trajectory_mean": float(self._position[:, 1:].double().mean()),
            "trajectory_end_share": float(last.all(dim=0).double().mean()),
            "fine": float(self._fine),
        }

    # -- resuming -----------------------------------------------------------------------------------------------------

    def sampling_state(self) -> dict[str, Any]:
        return {**super().sampling_state(), "position": self._position, "memory": self._memory}

    def restore_sampling(self, state: Mapping[str, Any]) -> None:
        super().restore_sampling(state)
        device = self._position.device
        self._position = state["position"].to(device)
        self._memory = None if state["memory"] is None else state["memory"].to(device)
        self._set_targets()


def _first_items(train_items: Ragged, n: int | None) -> Tensor:
    """Return the first n training items of each query, int64 ``[Q, n]``, filled up with 0."""
    counts = train_items.counts()
    if n is None:
        n = int(counts[counts > 0].min()) if bool((counts > 0).any()) else 0
    return train_items.first(torch.arange(len(counts), device=counts.device), n)
