"""RCE-KD: rejuvenated cross-entropy for knowledge distillation of recommenders."""
# Over 300 lines: one method with its variants, whose docstrings hold the equations of the paper.

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from recbole_kd.config.validation import invalid, try_value
from recbole_kd.config.value_types import Count, ItemCount, NonNegative, Positive, Share
from recbole_kd.distiller.base import DistillBatch, ItemSet
from recbole_kd.distiller.importance import ListWeighted, Shares, idle_list_tau, importance, log_of
from recbole_kd.distiller.rcekd_gamma import OF_THE_EPOCH, GammaRule, check_gamma, gamma_weights, idle_of_gamma
from recbole_kd.distiller.student_cross_entropy import listed_cross_entropy
from recbole_kd.losses.cross_entropy import cross_entropy
from recbole_kd.losses.list_cross_entropy import Lists
from recbole_kd.losses.list_weights import weights_at
from recbole_kd.ops import compiled_lists
from recbole_kd.ops.membership import is_in
from recbole_kd.ops.order_statistics import counts_below, counts_of_lower
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.sampling import sample_without_replacement
from recbole_kd.ops.sampling_by_count import draw_by_count
from recbole_kd.ops.topk import blocks, in_blocks, strike_out
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores

Variant = Literal["rce", "wo_sep", "wo_s", "wo_t", "const", "vanilla_ce", "full_ce"]

MAX_COUNT = 50.0
"""Upper bound of the counts in the published code. The paper has none."""

QUERIES_PER_DRAW = 2**13
"""Queries whose item sets are drawn at a time, so that the ranked lists of a large data set are never all in memory."""

TABLES = (torch.int32, torch.bool, torch.float32, torch.float32, torch.float32)
"""Types of the tables of all queries: ids, whether each counts, and three shares. Ids of 32 bits take half the memory
of torch's usual 64, and the table of ids is the largest of all."""

WITHOUT_STUDENT = ("full_ce", "vanilla_ce", "wo_s")
"""Variants that never rank the student's items."""

OF_THE_WEIGHTS = ("tau", "beta", "gamma", "gamma_constant", "gamma_epochs")
"""Options that the variants without a sample leave unread; the sizes of the lists are not among them, so that a
comparison of variants can share them."""


class RCEKD(ListWeighted):
    r"""RCE-KD: cross-entropy on the student's list and on the missing teacher items.

    From "Rejuvenating Cross-Entropy Loss in Knowledge Distillation for Recommender Systems". The teacher's top-K
    :math:`Q^T` is split by the student's own top-K :math:`Q^S`. On :math:`Q^S`, which is closed, the cross-entropy
    bounds NDCG. The rest :math:`Q_2 = Q^T \setminus Q^S` is completed by L sampled items that the student ranks above
    it: :math:`L = (1-\gamma_u) L_{CE}(Q^S) + \gamma_u L_{CE}(Q_2 \cup sample)` (Eqs. 7 to 10). Lists, samples and gamma
    are computed anew at the start of each epoch, with the student in evaluation mode. ``variant`` selects the paper's
    ablations.

    ``faithful`` chooses between the paper's text and the published code (github woriazzc/RCEKD), which differ:

    =====================  ============================================
    ================================================
    ..                     ``paper``                                     ``code``
    =====================  ============================================
    ================================================ training items         left out of every list
     kept in every list candidates             all items                                     the student's top
     ``code_candidates``
    weight of candidate j  z_j = Q2 items that the student ranks below   Q^T items at or below j among the candidates,
    at
                           j                                             most 50
    overlap in gamma       :math:`|Q^T \cap Q^S| / |Q^T|`                :math:`|Q^T \cap sample| / |Q^T|`
    mean over              distinct users of the batch                   rows of the batch
    =====================  ============================================
    ================================================

    Args:
        k: K, length of both lists.
        n_samples: L.
        candidates: how many of the student's best items can be sampled, or ``all``. If empty, ``faithful`` decides.
        code_candidates: the candidates of ``code``, mxK of the published code, cut to the catalogue.
        beta: factor in the exponential rule of gamma.
        tau: temperature of the SAMPLING.
        temperature: temperature of the SOFTMAX.
        variant: ``rce`` is the method; ``wo_sep`` one CE on Q^S and Q^T together; ``wo_s`` and ``vanilla_ce`` CE on Q^T
            (both are the same); ``wo_t`` CE on Q^S; ``const`` a constant gamma; ``full_ce`` CE over the whole
            catalogue.
        gamma: rule, see :func:`recbole_kd.distiller.rcekd_gamma.gamma_weights`.
        gamma_constant, gamma_epochs: arguments of that rule, the constant and Tmax.
        mask_train: leave training items out of all lists. If empty, ``faithful`` decides.
        list_weights: shares of rank, confidence and agreement in the weights of the teacher's list
            (:func:`recbole_kd.losses.list_weights.list_weights`), by which the teacher's softmaxes are multiplied,
            renormalised. An item outside the list has its smallest weight.
        list_tau: T of the rank's term.
    """

    in_threads = True
    ranks_student = True
    drawn_sets = ("own", "drawn")
    weight_ratio = 6.5

    def __init__(
        self,
        student: StudentScores,
        teacher: TeacherScores,
        *,
        k: ItemCount = 50,
        n_samples: ItemCount = 50,
        candidates: ItemCount | Literal["all"] | None = None,
        code_candidates: Count = 200,
        beta: NonNegative = 3.0,
        tau: Positive = 10.0,
        temperature: Positive = 1.0,
        faithful: Literal["code", "paper"] = "code",
        variant: Variant = "rce",
        gamma: GammaRule = "exponential",
        gamma_constant: Share = 0.5,
        gamma_epochs: Count | None = None,
        mask_train: bool | None = None,
        list_weights: Shares | None = None,
        list_tau: Positive = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(student, teacher, seed=seed)
        self.k, self.n_samples, self.tau, self.temperature = k, n_samples, tau, temperature
        self.paper = faithful == "paper"
        self.candidates = candidates if candidates is not None else ("all" if self.paper else code_candidates)
        self.mask_train = self.paper if mask_train is None else mask_train
        self.variant = variant
        self.gamma_rule = "fixed" if variant == "const" else gamma
        self.beta, self.gamma_constant, self.gamma_epochs = beta, gamma_constant, gamma_epochs
        self._teacher_list = torch.empty(0, dtype=torch.int64)
        self._teacher_valid = torch.empty(0, dtype=torch.bool)
        self._chosen = torch.empty(0, dtype=torch.int32)
        self._valid = torch.empty(0, dtype=torch.bool)
        self._gamma = torch.empty(0)
        self._overlaps: Tensor | None = None
        self._lists: Lists | None = None
        self.shares, self.list_tau = list_weights, list_tau
        self._log_weights: Tensor | None = None
        self._figures: dict[str, float] = {}

    @classmethod
    def check(cls, n_queries: int, n_items: int, options: Mapping[str, Any]) -> None:
        super().check(n_queries, n_items, options)
        given = options["candidates"]
        if given is None:
            given = "all" if options["faithful"] == "paper" else options["code_candidates"]
        room, n_samples = n_items if given == "all" else min(given, n_items), options["n_samples"]
        if n_samples > room:
            reason = f"expected at most {room}, the candidates that they are drawn from (kd_candidates)"
            raise invalid("kd_n_samples", n_samples, reason, try_value("kd_n_samples", room))
        check_gamma(options["gamma"], options["gamma_epochs"])

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        variant, faithful = options["variant"], options["faithful"]
        unread = idle_list_tau(options)
        if variant == "full_ce":
            unread = dict.fromkeys(("list_weights", "list_tau"), "kd_variant=full_ce")
        if variant not in ("rce", "const"):
            unread |= dict.fromkeys(OF_THE_WEIGHTS, f"kd_variant={variant}")
        if options["candidates"] is not None:
            unread["code_candidates"] = f"kd_candidates={options['candidates']}"
        elif faithful == "paper":
            unread["code_candidates"] = "kd_faithful=paper"
        if variant == "const":
            return {**unread, **idle_of_gamma("fixed", "kd_variant=const"), "gamma": "kd_variant=const"}
        return {**idle_of_gamma(options["gamma"], f"kd_gamma={options['gamma']}"), **unread}

    # -- item sets --------------------------------------------------------------------------------------------------

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> frozenset[str]:
        return cls.requires | {"full"} if options["variant"] == "full_ce" else super().needs(options)

    @classmethod
    def draws(cls, options: Mapping[str, Any]) -> bool:
        return cls.asks_student(options)

    @classmethod
    def asks_student(cls, options: Mapping[str, Any]) -> bool:
        if options["variant"] not in WITHOUT_STUDENT:
            return True
        return options["variant"] != "full_ce" and super().asks_student(options)

    @classmethod
    def draws_unlisted(cls, options: Mapping[str, Any]) -> bool:
        return options["variant"] not in WITHOUT_STUDENT

    def begin_training(self, train_items: Ragged) -> None:
        super().begin_training(train_items)
        if self.variant == "full_ce":
            return
        ids, scores = self.teacher_scores.top_k(self.all_queries(), self.k, self._excluded())
        self._teacher_list, self._teacher_valid = ids, scores > -torch.inf
        if self.variant in ("vanilla_ce", "wo_s"):
            self.item_sets = {"teacher_list": ids}

    def draw_item_sets(self, epoch: int) -> None:
        if self.variant in WITHOUT_STUDENT:
            self._weigh_list()
            return
        self._lists, self.item_sets = None, {}
        # Free the old sets before the new ones are drawn.
        self._chosen, self._valid = torch.empty(0, dtype=torch.int32), torch.empty(0, dtype=torch.bool)
        queries, depth = self.all_queries(), self._depth()
        tables: tuple[Tensor, ...] = ()
        with self.student_scorer.frozen():
            # "all" splits the queries into its own blocks, each with its own generator.
            step = len(queries) if self.candidates == "all" else QUERIES_PER_DRAW
            for start in range(0, len(queries), step):
                rows = slice(start, start + step)
                found = self._sets_of(rows, *self.student_scorer.top_k(queries[rows], depth, self._excluded()))
                tables = tables or tuple(
                    part.new_empty(len(queries), *part.shape[1:], dtype=kind)
                    for part, kind in zip(found, TABLES, strict=False)
                )
                for table, part in zip(tables, found, strict=True):
                    table[rows] = part
        self._chosen, self._valid, *shares = tables
        names = {"wo_t": ("own",), "wo_sep": ("own", "teacher_list")}.get(
            self.variant, ("own", "drawn", "teacher_list")
        )
        self._weigh_list()
        drawn = self._chosen[:, self.k : -self.k]
        sets = {"own": self._chosen[:, : self.k], "drawn": drawn, "teacher_list": self._teacher_list}
        self.item_sets = {name: sets[name] for name in names}
        if shares:
            self._overlaps = shares[0]
            self._weigh(epoch, *shares)

    def _weigh_list(self) -> None:
        """Set the logarithms of the list weights of all items chosen, if ``list_weights`` is set."""
        if self.shares is None or self.variant == "full_ce":
            return
        chosen = self._chosen if self.variant not in WITHOUT_STUDENT else None
        if chosen is None and self._log_weights is not None and not self.shares.get("agreement"):
            return
        chosen = None if chosen is None else chosen.long()
        own = None if chosen is None else chosen[:, : self.k]
        weights = importance(self, self.shares, self._teacher_list, self.list_tau, own)
        self._lists = None
        self._log_weights = log_of(weights if chosen is None else weights_at(chosen, self._teacher_list, weights))

    def follow_epoch(self, epoch: int) -> None:
        """Recompute gamma from the last overlaps if its rule depends on the epoch."""
        if self._overlaps is not None and self.gamma_rule in OF_THE_EPOCH:
            self._lists = None
            self._set_gamma(epoch, self._overlaps)
            self._figures |= _spread("gamma", self._gamma[1:])

    def _set_gamma(self, epoch: int, overlap: Tensor) -> None:
        self._gamma = gamma_weights(
            self.gamma_rule,
            overlap,
            beta=self.beta,
            constant=self.gamma_constant,
            epoch=epoch,
            last_epoch=self.gamma_epochs,
        )

    def _depth(self) -> int:
        """Return how many ranks of the student's ranking are needed."""
        n_drawn_from = 0 if self.candidates == "all" else int(self.candidates)
        return min(max(self.k + self.n_samples, n_drawn_from), self.student_scorer.n_items - 1)

    def _sets_of(self, rows: slice, ranked: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        """Return the item sets of consecutive queries, from their ranked lists.

        Args:
            rows: the queries.
            ranked, scores: the student's ranked items and their scores, ``[R, depth]``.

        Returns:
            ids int64 and whether each counts, bool, ``[R, n]``. If the variant has a sample, also three shares, float
            ``[R]``: the overlap in gamma, the overlap of both lists, the overlap rate.
        """
        ranked_valid = scores > -torch.inf
        found = self._drawn_at_once(rows, ranked, ranked_valid)
        if found is not None:
            return found
        teacher_list, teacher_valid = self._teacher_list[rows], self._teacher_valid[rows]
        own = ranked[:, : self.k]
        own_valid = ranked_valid[:, : self.k] & self._counted(rows, own)
        missing = teacher_valid & ~is_in(teacher_list, own)
        if self.variant == "wo_t":
            return own, own_valid
        if self.variant == "wo_sep":
            return torch.cat([own, teacher_list], dim=1), torch.cat([own_valid, missing], dim=1)
        drawn, drawn_valid = self._draw(rows, ranked, ranked_valid, missing)
        drawn_valid = drawn_valid & self._counted(rows, drawn)
        rest = missing & ~is_in(teacher_list, drawn)
        chosen, valid = torch.cat([own, drawn, teacher_list], dim=1), torch.cat([own_valid, drawn_valid, rest], dim=1)
        in_both = teacher_valid & ~missing
        shared = in_both if self.paper else teacher_valid & is_in(teacher_list, drawn.masked_fill(~drawn_valid, -1))
        listed = teacher_valid.sum(1).clamp(min=1)  # K, or fewer if a user has fewer items left
        rate = _share_of_top(ranked, chosen[:, self.k :], valid[:, self.k :])
        return chosen, valid, shared.sum(1) / listed, in_both.sum(1) / listed, rate

    def _drawn_at_once(self, rows: slice, ranked: Tensor, ranked_valid: Tensor) -> tuple[Tensor, ...] | None:
        """Return :meth:`_sets_of` from one compiled pass, or None if there is none.

        The sample is the same, but in the order of the ranking instead of the draw.
        """
        if self.variant not in ("rce", "const") or self.candidates == "all" or self.teacher_scores.masks:
            return None
        width, teacher_list = min(int(self.candidates), ranked.shape[1]), self._teacher_list[rows]
        found = compiled_lists.draw_sets(
            ranked, ranked_valid.sum(1), teacher_list, self._teacher_valid[rows], self.generator, k=self.k,
            n_drawn=min(self.n_samples, width), width=width, tau=self.tau,
            most=math.inf if self.paper else MAX_COUNT, from_own=not self.paper,
        )  # fmt: skip
        if found is None:
            return None
        drawn, valid, shares = found
        return torch.cat([ranked[:, : self.k], drawn, teacher_list], dim=1), valid, *shares.unbind(1)

    def _counted(self, rows: slice, ids: Tensor) -> Tensor:
        """Return which items of consecutive queries ``teacher_unlisted`` does not leave out, bool ``[R, n]``."""
        return self.without_uncounted(ids, self.all_queries()[rows]) > 0

    def _excluded(self) -> Ragged | None:
        return self.train_items if self.mask_train else None

    def _draw(self, rows: slice, ranked: Tensor, ranked_valid: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the sample: ids and whether they count, ``[R, L]`` (paper 5.3, Gumbel top-L)."""
        if self.candidates == "all":
            return self._draw_from_all(rows, missing)
        width = min(int(self.candidates), ranked.shape[1])
        candidates, valid = ranked[:, :width], ranked_valid[:, :width]
        member = is_in(candidates, self._teacher_list[rows]) & valid  # both lists are filled up with id 0
        if self.paper:
            member[:, : self.k] = False  # Q1 is the part of Q^T among the first K
            counts = counts_below(member, inclusive=False)
        else:
            counts = counts_below(member, inclusive=True).clamp_(max=MAX_COUNT)
        log_weights = (counts / self.tau).masked_fill_(~valid, -torch.inf)
        places = sample_without_replacement(log_weights, min(self.n_samples, width), self.generator)
        return candidates.gather(1, places), valid.gather(1, places)

    def _draw_from_all(self, rows: slice, missing: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the sample from all items: ids and whether they count, ``[R, L]``.

        Each block of queries has its own generator, so that several processes can divide the blocks between them.
        """
        queries, scorer, n = self.all_queries()[rows], self.student_scorer, len(missing)
        teacher_list, teacher_valid = self._teacher_list[rows], self._teacher_valid[rows]
        seed = int(torch.randint(2**62, (), generator=self.generator, device=queries.device))
        below, full = missing if self.paper else teacher_valid, scorer.catalogue()
        ids = queries.new_zeros(n, self.n_samples)

        def draw(some: slice) -> None:
            scores = full(queries[some])
            wanted = scores.gather(1, teacher_list[some])
            strike_out(scores, queries[some], self._excluded())
            counts = counts_of_lower(scores, wanted, below[some])
            if not self.paper:
                counts = self._published_counts(counts, teacher_list[some], teacher_valid[some])
            generator = torch.Generator(queries.device).manual_seed(seed + some.start)
            ids[some] = draw_by_count(counts, self.n_samples, self.tau, self.k + 1, generator).clamp_(min=0)

        parts = list(blocks(n, scorer.n_items, queries.device))
        grain = parts[0].stop
        own = slice(0, n) if scorer.sharing is None else scorer.sharing.slice_of(n, grain)
        in_blocks(draw, parts[own.start // grain : -(-own.stop // grain)], queries.device, scorer.has_vectors)
        ids = ids if scorer.sharing is None else scorer.sharing.gather(ids[own], n, grain)
        return ids, ids != 0

    @staticmethod
    def _published_counts(lower: Tensor, teacher_list: Tensor, teacher_valid: Tensor) -> Tensor:
        """Return the published code's counts, int32 ``[B, I]``, clamped: lower items and the item."""
        listed = teacher_list.masked_fill(~teacher_valid, 0)  # the pad is never drawn
        own = torch.zeros_like(lower).scatter_(1, listed, 1)
        return (lower + own).clamp_(max=int(MAX_COUNT)).masked_fill_(lower < 0, -1)

    def _weigh(self, epoch: int, overlap: Tensor, list_overlap: Tensor, rate: Tensor) -> None:
        """Set every query's gamma and the epoch's metrics from the float ``[U]`` shares."""
        self._set_gamma(epoch, overlap)
        self._figures = {
            **_spread("overlap", overlap[1:]), **_spread("gamma", self._gamma[1:]),
            "list_overlap": float(list_overlap[1:].mean()),
            "overlap_rate": float(rate[1:].mean()),
            "closure_share": float((rate[1:] == 1).float().mean()),
        }  # fmt: skip

    # -- loss ---------------------------------------------------------------------------------------------------------

    def forward(self, batch: DistillBatch) -> Tensor:
        if self.paper:
            total = self._total(batch, torch.ones_like(batch.weights))
            return self.reduce_total(total * batch.rows_per_query, batch.weights)
        return self.reduce_total(self._total(batch, batch.weights), batch.weights)

    def _total(self, batch: DistillBatch, weights: Tensor) -> Tensor:
        """Return the weighted sum over the queries, ``[]``: weights float ``[Q]``."""
        if self.variant == "full_ce":
            student, teacher = (side.full(batch.queries)[:, 1:] for side in (self.student_scorer, self.teacher_scores))
            return (cross_entropy(student, teacher, None, self.temperature) * weights).sum()
        if self._lists is None:
            self._lists = self._epochs_lists([batch.sets[name] for name in self.item_sets])
        return listed_cross_entropy(self.student_scorer, batch.queries, weights, self._lists, self.temperature)

    def _epochs_lists(self, sets: list[ItemSet]) -> Lists:
        """Return what all batches of an epoch share.

        That is the lists of all queries, the teacher's softmax on them, and the weights of the two cross-entropies.
        """
        teacher = [s.all_teacher for s in sets]
        if self._log_weights is not None:
            teacher = [torch.cat(teacher, dim=1) + self.temperature * self._log_weights]
        if self.variant in ("vanilla_ce", "wo_s"):
            return Lists.of(
                self._teacher_list, teacher, self._teacher_valid, [self._teacher_list.shape[1]], None, self.temperature
            )
        listed = [self._chosen.shape[1]]
        if self.variant in ("wo_t", "wo_sep"):
            return Lists.of(self._chosen, teacher, self._valid, listed, None, self.temperature)
        shares = torch.stack([1 - self._gamma, self._gamma], dim=1)
        return Lists.of(self._chosen, teacher, self._valid, [self.k, *listed], shares, self.temperature)

    def diagnostics(self) -> dict[str, float]:
        return self._figures


def _share_of_top(ranked: Tensor, members: Tensor, counts: Tensor) -> Tensor:
    """Return the share of A, the members that count, among the student's top-|A|.

    This is the overlap rate OR of Table 7. It is 1 if A is closed (Assumption 4.3).
    """
    size = counts.sum(1)
    top = ranked[:, : min(members.shape[1], ranked.shape[1])]
    within = torch.arange(top.shape[1], device=top.device) < size.unsqueeze(1)
    return (is_in(top, members.masked_fill(~counts, -1)) & within).sum(1) / size.clamp(min=1)


def _spread(name: str, values: Tensor) -> dict[str, float]:
    """Return the mean and quartiles of a metric over all queries."""
    quartiles = np.quantile(values.cpu().numpy(), [0.25, 0.5, 0.75])  # torch.quantile takes at most 2**24 numbers
    figures = {f"{name}_q{q}": float(v) for q, v in zip((25, 50, 75), quartiles, strict=True)}
    return {f"{name}_mean": float(values.mean()), **figures}
