"""The item sets of RCE-KD: the student's list, a sample of its ranking, and the teacher's list."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_kd.ops import compiled_lists
from recbole_kd.ops.membership import is_in
from recbole_kd.ops.order_statistics import counts_below, counts_of_lower
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import sample_without_replacement
from recbole_kd.ops.sampling_by_count import draw_by_count
from recbole_kd.ops.topk import blocks, in_blocks, strike_out
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores

MAX_COUNT = 50.0
"""Upper bound of the counts in the published code. The paper has none."""

QUERIES_PER_DRAW = 2**13
"""Queries whose item sets are drawn at a time, so that the ranked lists of a large data set are never all in memory."""

TABLES = (torch.int32, torch.bool, torch.float32, torch.float32, torch.float32)
"""Types of the tables of all queries: ids, whether each counts, and three shares. Ids of 32 bits take half the memory
of torch's usual 64, and the table of ids is the largest of all."""


@dataclass(frozen=True)
class SetRules:
    """The options of RCE-KD that its item sets depend on.

    Attributes:
        parts: the sets that are wanted, in this order: ``own`` is the student's list, ``drawn`` the sample,
            ``teacher_list`` the teacher's.
        k: K, length of both lists.
        n_samples: L.
        candidates: how many of the student's best items can be sampled, or ``all``.
        tau: temperature of the sampling.
        paper: draw by the paper's text. False draws like the published code.
    """

    parts: tuple[str, ...]
    k: int
    n_samples: int
    candidates: int | str
    tau: float
    paper: bool

    def depth(self, n_items: int) -> int:
        """Return how many ranks of the student's ranking are needed, of ``n_items`` with the pad."""
        n_drawn_from = 0 if self.candidates == "all" else int(self.candidates)
        return min(max(self.k + self.n_samples, n_drawn_from), n_items - 1)


@dataclass(frozen=True)
class SetDraw:
    """A draw of the item sets of all queries.

    Attributes:
        rules: the options.
        student: its scores.
        teacher: its scores, which may leave items out of every loss (``teacher_unlisted=mask``).
        teacher_list, teacher_valid: the teacher's list of each query, int64 ``[U, K]``, and which of its items are
            there, bool ``[U, K]``; other places hold id 0.
        exclude: items left out of each query's lists.
        generator: of the sample.
    """

    rules: SetRules
    student: StudentScores
    teacher: TeacherScores
    teacher_list: Tensor
    teacher_valid: Tensor
    exclude: Ragged | None
    generator: torch.Generator

    def of_all(self, queries: Tensor) -> tuple[Tensor, ...]:
        """Return the item sets of all queries, one row each.

        Args:
            queries: their ids, int64 ``[U]``.

        Returns:
            ids int32 and whether each counts, bool, ``[U, n]``: the wanted sets side by side. If one of them is a
            sample, also three shares, float32 ``[U]``: the overlap in gamma, the overlap of both lists, the overlap
            rate.
        """
        depth = self.rules.depth(self.student.n_items)
        tables: tuple[Tensor, ...] = ()
        with self.student.frozen():
            # "all" splits the queries into its own blocks, each with its own generator.
            step = len(queries) if self.rules.candidates == "all" else QUERIES_PER_DRAW
            for start in range(0, len(queries), step):
                rows = slice(start, start + step)
                ranked, scores = self.student.top_k(queries[rows], depth, self.exclude)
                found = self._of_rows(rows, queries[rows], ranked, scores > -torch.inf)
                tables = tables or tuple(
                    part.new_empty(len(queries), *part.shape[1:], dtype=kind)
                    for part, kind in zip(found, TABLES, strict=False)
                )
                for table, part in zip(tables, found, strict=True):
                    table[rows] = part
        return tables

    def _of_rows(self, rows: slice, queries: Tensor, ranked: Tensor, ranked_valid: Tensor) -> tuple[Tensor, ...]:
        """Return the item sets of consecutive queries, from their ranked lists.

        Args:
            rows: their rows in the tables.
            queries: their ids, int64 ``[R]``.
            ranked: the student's ranked items, ``[R, depth]``.
            ranked_valid: which of them are there, bool ``[R, depth]``.

        Returns:
            See :meth:`of_all`; ids are int64.
        """
        found = self._at_once(rows, ranked, ranked_valid)
        if found is not None:
            return found
        rules = self.rules
        teacher_list, teacher_valid = self.teacher_list[rows], self.teacher_valid[rows]
        own = ranked[:, : rules.k]
        own_valid = ranked_valid[:, : rules.k] & self._counted(own, queries)
        missing = teacher_valid & ~is_in(teacher_list, own)
        if rules.parts == ("own",):
            return own, own_valid
        if "drawn" not in rules.parts:
            return torch.cat([own, teacher_list], dim=1), torch.cat([own_valid, missing], dim=1)
        drawn, drawn_valid = self._sample(rows, queries, ranked, ranked_valid, missing)
        drawn_valid = drawn_valid & self._counted(drawn, queries)
        rest = missing & ~is_in(teacher_list, drawn)
        chosen, valid = torch.cat([own, drawn, teacher_list], dim=1), torch.cat([own_valid, drawn_valid, rest], dim=1)
        in_both = teacher_valid & ~missing
        shared = in_both if rules.paper else teacher_valid & is_in(teacher_list, drawn.masked_fill(~drawn_valid, -1))
        listed = teacher_valid.sum(1).clamp(min=1)  # K, or fewer if a user has fewer items left
        rate = share_of_top(ranked, chosen[:, rules.k :], valid[:, rules.k :])
        return chosen, valid, shared.sum(1) / listed, in_both.sum(1) / listed, rate

    def _at_once(self, rows: slice, ranked: Tensor, ranked_valid: Tensor) -> tuple[Tensor, ...] | None:
        """Return :meth:`_of_rows` from one compiled pass, or None if there is none.

        The sample is the same, but in the order of the ranking instead of the draw.
        """
        rules = self.rules
        if "drawn" not in rules.parts or rules.candidates == "all" or self.teacher.masks:
            return None
        width, teacher_list = min(int(rules.candidates), ranked.shape[1]), self.teacher_list[rows]
        found = compiled_lists.draw_sets(
            ranked, ranked_valid.sum(1), teacher_list, self.teacher_valid[rows], self.generator, k=rules.k,
            n_drawn=min(rules.n_samples, width), width=width, tau=rules.tau,
            most=math.inf if rules.paper else MAX_COUNT, from_own=not rules.paper,
        )  # fmt: skip
        if found is None:
            return None
        drawn, valid, shares = found
        return torch.cat([ranked[:, : rules.k], drawn, teacher_list], dim=1), valid, *shares.unbind(1)

    def _counted(self, ids: Tensor, queries: Tensor) -> Tensor:
        """Return which items are not the pad and not left out by ``teacher_unlisted``, bool ``[R, n]``."""
        counted = self.teacher.counted(queries, ids)
        return ids > 0 if counted is None else (ids > 0) & counted

    def _sample(
        self, rows: slice, queries: Tensor, ranked: Tensor, ranked_valid: Tensor, missing: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw the sample: ids and whether they count, ``[R, L]`` (paper 5.3, Gumbel top-L)."""
        rules = self.rules
        if rules.candidates == "all":
            return self._sample_of_all_items(rows, queries, missing)
        width = min(int(rules.candidates), ranked.shape[1])
        candidates, valid = ranked[:, :width], ranked_valid[:, :width]
        member = is_in(candidates, self.teacher_list[rows]) & valid  # both lists are filled up with id 0
        if rules.paper:
            member[:, : rules.k] = False  # Q1 is the part of Q^T among the first K
            counts = counts_below(member, inclusive=False)
        else:
            counts = counts_below(member, inclusive=True).clamp_(max=MAX_COUNT)
        log_weights = (counts / rules.tau).masked_fill_(~valid, -torch.inf)
        places = sample_without_replacement(log_weights, min(rules.n_samples, width), self.generator)
        return candidates.gather(1, places), valid.gather(1, places)

    def _sample_of_all_items(self, rows: slice, queries: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the sample from all items: ids and whether they count, ``[R, L]``.

        Each block of queries has its own generator, so that several processes can divide the blocks between them.
        """
        rules, student, n = self.rules, self.student, len(missing)
        teacher_list, teacher_valid = self.teacher_list[rows], self.teacher_valid[rows]
        seed = int(torch.randint(2**62, (), generator=self.generator, device=queries.device))
        below, full = missing if rules.paper else teacher_valid, student.catalogue()
        ids = queries.new_zeros(n, rules.n_samples)

        def draw(some: slice) -> None:
            scores = full(queries[some])
            wanted = scores.gather(1, teacher_list[some])
            strike_out(scores, queries[some], self.exclude)
            counts = counts_of_lower(scores, wanted, below[some])
            if not rules.paper:
                counts = _published_counts(counts, teacher_list[some], teacher_valid[some])
            generator = torch.Generator(queries.device).manual_seed(seed + some.start)
            ids[some] = draw_by_count(counts, rules.n_samples, rules.tau, rules.k + 1, generator).clamp_(min=0)

        parts = list(blocks(n, student.n_items, queries.device))
        grain = parts[0].stop
        own = slice(0, n) if student.sharing is None else student.sharing.slice_of(n, grain)
        in_blocks(draw, parts[own.start // grain : -(-own.stop // grain)], queries.device, student.has_vectors)
        ids = ids if student.sharing is None else student.sharing.gather(ids[own], n, grain)
        return ids, ids != 0


def share_of_top(ranked: Tensor, members: Tensor, counts: Tensor) -> Tensor:
    """Return the share of A, the members that count, among the student's top-|A|, float ``[R]``.

    This is the overlap rate OR of Table 7. It is 1 if A is closed (Assumption 4.3).

    Args:
        ranked: the student's ranked items, int64 ``[R, depth]``.
        members: int64 ``[R, n]``.
        counts: which of them are in A, bool ``[R, n]``.
    """
    size = counts.sum(1)
    top = ranked[:, : min(members.shape[1], ranked.shape[1])]
    within = torch.arange(top.shape[1], device=top.device) < size.unsqueeze(1)
    return (is_in(top, members.masked_fill(~counts, -1)) & within).sum(1) / size.clamp(min=1)


def _published_counts(lower: Tensor, teacher_list: Tensor, teacher_valid: Tensor) -> Tensor:
    """Return the published code's counts, int32 ``[B, I]``, clamped: lower items and the item."""
    listed = teacher_list.masked_fill(~teacher_valid, 0)  # the pad is never drawn
    own = torch.zeros_like(lower).scatter_(1, listed, 1)
    return (lower + own).clamp_(max=int(MAX_COUNT)).masked_fill_(lower < 0, -1)
