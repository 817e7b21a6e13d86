"""Distiller: a KD loss with its sampled item sets. It sees a Scorer, a TeacherScores and a batch, never a config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recbole_kd.errors import TeacherError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.base import TeacherScores


class ItemSet:
    """A set of items per query with the teacher's scores of them, seen at the queries of a batch.

    Args:
        all_ids: int64 ``[n_queries, n]``; 0 stands for no item, where a query has fewer.
        all_teacher: float32 ``[n_queries, n]``, or ``[n_queries, 0]`` for a distiller without
            :attr:`Distiller.needs_set_scores`.
        queries: int64 ``[Q]``.

    Attributes:
        ids, teacher: the rows of these queries, ``[Q, n]``, cut when they are asked for.
    """

    def __init__(self, all_ids: Tensor, all_teacher: Tensor, queries: Tensor) -> None:
        self.all_ids, self.all_teacher, self.queries = all_ids, all_teacher, queries

    @cached_property
    def ids(self) -> Tensor:
        return self.all_ids[self.queries]

    @cached_property
    def teacher(self) -> Tensor:
        return self.all_teacher[self.queries]

    def to(self, device: torch.device) -> ItemSet:
        return ItemSet(*(t.to(device) for t in (self.all_ids, self.all_teacher, self.queries)))


@dataclass
class DistillBatch:
    """What the teacher-aware loader hands a distiller for one training batch.

    A batch names a query once per interaction; one row per distinct query, weighted by its count, is the same loss.

    Attributes:
        queries: int64 ``[Q]``, the distinct queries. weights: float32 ``[Q]``, how many rows of the batch each stands
            for.
        sets: the distiller's item sets by name, cut to these queries.
        positives, negatives: int64 ``[rows]`` and ``[rows * negatives a row]``, the batch's own items, repeated as they
            come. Filled for a distiller that :attr:`Distiller.needs_items`; None otherwise, and where a loader has
            none.
        rows: int64 ``[rows]``, the query of each positive; where there are positives.
        share: of a part of a batch (:mod:`recbole_kd.distributed.batch_shard`), its share of the rows: what a mean over
            it
        counts in the mean over all.
        whole_rows_per_query: rows by distinct queries of the batch that it is a part of; None where it is the whole.
    """

    queries: Tensor
    weights: Tensor
    sets: dict[str, ItemSet] = field(default_factory=dict)
    positives: Tensor | None = None
    negatives: Tensor | None = None
    rows: Tensor | None = None
    share: float = 1.0
    whole_rows_per_query: float | None = None

    def to(self, device: torch.device) -> DistillBatch:
        sets = {name: items.to(device) for name, items in self.sets.items()}
        names = ("queries", "weights", "positives", "negatives", "rows")
        own = {name: tensor.to(device) for name in names if (tensor := getattr(self, name)) is not None}
        return replace(self, sets=sets, **own)

    @property
    def rows_per_query(self) -> float:
        """Rows by distinct queries, of the whole batch."""
        own = self.whole_rows_per_query
        return float(self.weights.sum()) / len(self.weights) if own is None else own


def no_embeddings(method: str, teacher: str, store: str) -> str:
    """What is said of a teacher without vectors."""
    return (
        f"{method} needs the teacher's embeddings and {teacher} ({store} store) has none; take a teacher whose score "
        "is a dot product, such as MF or LightGCN, in a store of factors, or make factors of this one's scores with "
        "--teacher_svd=64"
    )


def no_modalities(method: str, teacher: str) -> str:
    """What is said of a teacher without modalities."""
    return f"{method} needs scores of the teacher's modalities and {teacher} has none: take a teacher of item features, such as BM3"


class Distiller(nn.Module, ABC):
    """Base of every method. Constructor arguments after student and teacher are its ``kd_*`` keys.

    A method overrides :meth:`forward`, usually :meth:`draw_item_sets`, and :meth:`follow_epoch` if it has a schedule.
    The annotations of its arguments hold their bounds (:mod:`recbole_kd.config.value_types`); :meth:`check` refuses
    arguments that do not fit each other. Modules it owns (projectors, experts) are trained with the student and not
    saved into it.

    Args:
        student: scorer of the student. teacher: its frozen scores.
        seed: of the generator that all sampling of this distiller uses.

    Raises:
        TeacherError: the teacher cannot give what ``requires`` names.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"scores"})
    """What the teacher must offer, of ``scores``, ``embeddings``, ``trajectory`` (as many checkpoints as the option ``n_checkpoints``
    says, else 3), ``modalities`` (scores of each, see :attr:`TeacherScores.modalities`)."""

    several: ClassVar[bool] = False
    """Can it learn from several teachers at once (``--teacher=MF,LightGCN``, see :attr:`TeacherScores.members`)?"""

    assistant: ClassVar[bool] = False
    """Is a teacher assistant, the student with another ``embedding_size``, distilled first and takes the teacher's place? Its
    ``assistant_*`` options are those of :mod:`recbole_kd.pipeline.assistant`."""

    needs_items: ClassVar[bool] = False
    """Does forward() read the batch's positive and negative items?"""

    ranks_student: ClassVar[bool] = False
    """Does it ask for the student's top-k lists (:meth:`Scorer.top_k`)? Then ``kd_candidate_index`` has a meaning for it."""

    drawn_sets: ClassVar[tuple[str, ...]] = ()
    """Item sets that every draw_item_sets replaces: the old ones and their scores are let go before."""

    in_threads: ClassVar[bool] = False
    """Is nearly all of its work on a CPU done by compiled kernels and blocks side by side (:mod:`recbole_kd.ops.threads`)?
    The trainer of a small student then leaves torch one thread."""

    needs_set_scores: bool = True
    """Does forward() read the teacher's scores of the item sets? Where not, the teacher is not asked about them."""

    mask_train: bool = False
    """Are training items left out of all item sets?"""

    weight: float = 1.0
    """lambda of L = L_base + lambda L_KD."""

    reduction: str = "mean"
    """Over the rows of a batch, ``sum`` or ``mean``: always the reduction of the student's own loss, so that lambda keeps its meaning.

    HSTU's own loss is a mean over the positions of a batch and a row is a user: under ``mean`` lambda weighs the mean KD loss of a user
    against the mean loss of a position. The RCE-KD code adds the SUM over a batch's B users to that mean: its lambda is lambda B here."""

    refresh: int = 1
    """Draw new item sets every so many epochs."""

    def __init__(self, student: Scorer, teacher: TeacherScores, *, seed: int = 0) -> None:
        super().__init__()
        self.check_teacher(teacher)
        self.student_scorer = student
        self.teacher_scores = teacher
        self.train_items: Ragged | None = None
        self.item_sets: dict[str, Tensor] = {}
        self.generator = torch.Generator(device=student.device).manual_seed(seed)

    @classmethod
    def check(cls, n_queries: int, n_items: int, options: Mapping[str, Any]) -> None:
        """Refuse options that do not fit each other, before anything is trained.

        A bound of one option, also by the size of the data or by another option, belongs into its annotation instead.

        Args:
            n_queries, n_items: without the pad. options: constructor arguments, defaults included.

        Raises:
            ConfigError: one sentence that names the ``kd_*`` key.
        """

    @classmethod
    def check_student(cls, model: type) -> None:
        """Refuse a student's class that cannot give what the method reads of it, before anything is trained.

        Raises:
            ConfigError: one sentence that names the model.
        """

    @classmethod
    def check_teacher(cls, teacher: TeacherScores) -> None:
        """Refuse a teacher that lacks what :attr:`requires` names.

        Raises:
            TeacherError: one sentence that names the teacher.
        """
        if "embeddings" in cls.requires and teacher.embeddings() is None:
            raise TeacherError(no_embeddings(cls.__name__, teacher.name, teacher.store))
        missing = [member.name for member in teacher.members if "trajectory" in cls.requires and member.earlier is None]
        if missing:
            raise TeacherError(
                f"{cls.__name__} needs the checkpoints of the teacher's training and {', '.join(missing)} has none: "
                f"train it with --teacher=<model> --kd={cls.__name__}, which keeps them in the teacher's folder"
            )
        if "modalities" in cls.requires and not teacher.modalities:
            raise TeacherError(no_modalities(cls.__name__, teacher.name))

    def begin_training(self, train_items: Ragged) -> None:
        """Called once before the first epoch with the training items of each query."""
        self.train_items = train_items.to(self.student_scorer.device)

    def begin_epoch(self, epoch: int, draw: bool = True) -> None:
        """Prepare an epoch: follow its number, and draw item sets if asked to. The student is not in a training step.

        Args:
            draw: False keeps the item sets of an earlier epoch (``kd_refresh``).
        """
        self.follow_epoch(epoch)
        if draw:
            self.draw_item_sets(epoch)

    def follow_epoch(self, epoch: int) -> None:
        """Set what depends on the number of the epoch, such as a temperature; called in every epoch, whatever ``kd_refresh``."""

    def draw_item_sets(self, epoch: int) -> None:
        """Draw new item sets into ``item_sets``; use :meth:`Scorer.top_k` or :meth:`Scorer.frozen` to ask the student."""

    def is_due(self, epoch: int) -> bool:
        """Return whether new item sets are drawn in this epoch."""
        return epoch % self.refresh == 0

    @classmethod
    def draws(cls, options: Mapping[str, Any]) -> bool:
        """Return whether the method draws item sets again and again, so that ``kd_refresh`` has an effect.

        Args:
            options: constructor arguments, defaults included.
        """
        return cls.draw_item_sets is not Distiller.draw_item_sets

    @classmethod
    def asks_student(cls, options: Mapping[str, Any]) -> bool:
        """Return whether the method ranks the student's items, so that ``kd_candidate_index`` has an effect."""
        return cls.ranks_student

    @abstractmethod
    def forward(self, batch: DistillBatch) -> Tensor:
        """The KD loss of a batch, a scalar in the student's own reduction (see :meth:`reduce`): a sum over queries, or that by the rows.

        Inside a training step every ``self.student_scorer.at(batch.queries, items)`` shares one encoding with the base
        loss.
        """

    def reduce(self, loss: Tensor, weights: Tensor) -> Tensor:
        """Rows to a scalar: float ``[Q]`` losses and weights -> ``[]``."""
        return self.reduce_total((loss * weights).sum(), weights)

    def reduce_distinct(self, loss: Tensor, weights: Tensor) -> Tensor:
        """As :meth:`reduce` where published as a sum over a batch's DISTINCT queries: each counts once; a mean is still over rows."""
        return self.reduce_total(loss.sum(), weights)

    def reduce_total(self, total: Tensor, weights: Tensor) -> Tensor:
        """As :meth:`reduce`, of what is a sum already: ``[]`` and float ``[Q]`` weights -> ``[]``."""
        return total if self.reduction == "sum" else total / weights.sum()

    def diagnostics(self) -> dict[str, float]:
        """Figures of the last begin_epoch for log and TensorBoard."""
        return {}

    def all_queries(self) -> Tensor:
        """Ids of all queries, pad included, so that row q of a table belongs to query q."""
        return torch.arange(self.student_scorer.n_queries, device=self.student_scorer.device)

    def sampling_state(self) -> dict[str, Any]:
        """What resuming needs beside the parameters."""
        return {"generator": self.generator.get_state()}

    def restore_sampling(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["generator"])
