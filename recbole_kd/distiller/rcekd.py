"""RCE-KD: rejuvenated cross-entropy for knowledge distillation of recommenders."""

from __future__ import annotations

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
from recbole_kd.distiller.rcekd_sets import SetDraw, SetRules
from recbole_kd.distiller.student_cross_entropy import listed_cross_entropy
from recbole_kd.losses.cross_entropy import cross_entropy
from recbole_kd.losses.list_cross_entropy import Lists
from recbole_kd.losses.list_weights import weights_at
from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TeacherScores

Variant = Literal["rce", "wo_sep", "wo_s", "wo_t", "const", "vanilla_ce", "full_ce"]

PARTS = {"wo_t": ("own",), "wo_sep": ("own", "teacher_list")}
"""Variant -> the item sets that its loss reads; those that are not listed here read the sample too."""

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

    =====================  =====================================  =====================================
    ..                     ``paper``                              ``code``
    =====================  =====================================  =====================================
    training items         left out of every list                 kept in every list
    candidates             all items                              the student's top ``code_candidates``
    weight of candidate j  z_j = Q2 items that the student ranks  Q^T items at or below j among the
                           below j                                candidates, at most 50
    overlap in gamma       :math:`|Q^T \cap Q^S| / |Q^T|`         :math:`|Q^T \cap sample| / |Q^T|`
    mean over              distinct users of the batch            rows of the batch
    =====================  =====================================  =====================================

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
        parts = PARTS.get(self.variant, ("own", "drawn", "teacher_list"))
        draw = SetDraw(
            SetRules(parts, self.k, self.n_samples, self.candidates, self.tau, self.paper),
            self.student_scorer,
            self.teacher_scores,
            self._teacher_list,
            self._teacher_valid,
            self._excluded(),
            self.generator,
        )
        self._chosen, self._valid, *shares = draw.of_all(self.all_queries())
        self._weigh_list()
        drawn = self._chosen[:, self.k : -self.k]
        sets = {"own": self._chosen[:, : self.k], "drawn": drawn, "teacher_list": self._teacher_list}
        self.item_sets = {name: sets[name] for name in parts}
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

    def _excluded(self) -> Ragged | None:
        return self.train_items if self.mask_train else None

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


def _spread(name: str, values: Tensor) -> dict[str, float]:
    """Return the mean and quartiles of a metric over all queries."""
    quartiles = np.quantile(values.cpu().numpy(), [0.25, 0.5, 0.75])  # torch.quantile takes at most 2**24 numbers
    figures = {f"{name}_q{q}": float(v) for q, v in zip((25, 50, 75), quartiles, strict=True)}
    return {f"{name}_mean": float(values.mean()), **figures}
