"""The base class of all KD methods, with the item sets and the batch that it reads.

A distiller sees the scores of a student and of a teacher, and a batch, never a config.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recbole_kd.config.argument_kinds import Kind, instance_of, takes
from recbole_kd.errors import TeacherError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.scoring.base import StudentScores
from recbole_kd.teacher.base import TEACHER, TeacherScores, no_confidence


class ItemSet:
    """A set of items per query with the teacher's scores, cut to the queries of a batch.

    Args:
        all_ids: int64 or int32 ``[n_queries, n]``. 0 fills the row of a query that has fewer than n items.
        all_teacher: float32 ``[n_queries, n]``, or ``[n_queries, 0]`` for a distiller without
            :attr:`Distiller.needs_set_scores`.
        queries: int64 ``[Q]``.

    Attributes:
        ids, teacher: the rows of these queries, int64 and float32 ``[Q, n]``. They are gathered on first access.
    """

    def __init__(self, all_ids: Tensor, all_teacher: Tensor, queries: Tensor) -> None:
        self.all_ids, self.all_teacher, self.queries = all_ids, all_teacher, queries

    @cached_property
    def ids(self) -> Tensor:
        return self.all_ids[self.queries].long()

    @cached_property
    def teacher(self) -> Tensor:
        return self.all_teacher[self.queries]

    def to(self, device: torch.device) -> ItemSet:
        return ItemSet(*(t.to(device) for t in (self.all_ids, self.all_teacher, self.queries)))


@dataclass
class DistillBatch:
    """One training batch as a distiller reads it.

    A batch names a query once per interaction. One row per distinct query, weighted by its count, gives the same loss.

    Attributes:
        queries: int64 ``[Q]``, the distinct queries.
        weights: float32 ``[Q]``, the number of batch rows of each query, or of loss terms; see
            :attr:`Distiller.weight_scale`.
        sets: the distiller's item sets by name, cut to these queries.
        positives, negatives: int64 ``[rows]`` and ``[rows * negatives per row]``, the batch's own items in batch order,
            with repetitions. None if the distiller does not set :attr:`Distiller.needs_items` or the loader has none.
        rows: int64 ``[rows]``, the query of each positive. None if there are no positives.
        share: for a shard of a batch (:mod:`recbole_kd.distributed.batch_shard`), the weight of the shard's mean in the
            mean over the whole batch, which is the shard's share of the rows. Rows of queries that the teacher does not
            cover are left out of a batch, which lowers its share in the same way.
        whole_rows_per_query: for a part, rows / distinct queries of the whole batch. None if this is the whole batch.
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
        """Rows / distinct queries of the whole batch."""
        own = self.whole_rows_per_query
        return float(self.weights.sum()) / len(self.weights) if own is None else own


def no_embeddings(method: str, teacher: str, store: str, fix: str) -> str:
    """Return the error message for a teacher without vectors; ``fix`` says what to type."""
    return (
        f"{method} needs the teacher's embeddings and {teacher} ({store} store) has none: {fix}, or take a teacher "
        "whose score is a dot product, such as MF or LightGCN"
    )


def no_full_scores(method: str, teacher: str) -> str:
    """Return the error message for a teacher of ranked lists."""
    return (
        f"{method} needs the teacher's score of every item and {teacher} has ranked lists: take a method that learns "
        "from lists, such as RCEKD, RRD or CE, or give all scores with recbole_kd.teacher_from_scores"
    )


def no_modalities(method: str, teacher: str) -> str:
    """Return the error message for a teacher without modalities."""
    return (
        f"{method} needs scores of the teacher's modalities and {teacher} has none: take a teacher of item features, "
        "such as BM3"
    )


class Distiller(nn.Module, ABC):
    """The base class of every KD method.

    The constructor arguments after student and teacher are its ``kd_*`` keys. A method overrides :meth:`forward`,
    usually :meth:`draw_item_sets`, and :meth:`follow_epoch` if it has a schedule. The annotations of its arguments hold
    their bounds (:mod:`recbole_kd.config.value_types`). :meth:`check` refuses arguments that do not fit each other.
    Modules of the distiller (projectors, experts) are trained with the student but not saved with it.

    Args:
        student: scorer of the student.
        teacher: the frozen scores of the teacher.
        seed: seed of the generator that this distiller uses for all sampling.

    Raises:
        TeacherError: the teacher does not offer what ``requires`` names.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"scores"})
    """What the teacher must offer.

    It is ``scores``, ``full``, ``confidence``, ``embeddings``, ``trajectory`` or ``modalities``.

    Ranked lists offer ``scores``; ``full`` means a score of every item, which they lack.
    ``trajectory`` means as many checkpoints as the option ``n_checkpoints`` says, else 3. ``modalities`` means scores
    of each modality, see :attr:`TeacherScores.modalities`."""

    several: ClassVar[bool] = False
    """Whether it can learn from several teachers (``--teacher=MF,LightGCN``, see :attr:`TeacherScores.members`)."""

    assistant: ClassVar[bool] = False
    """Whether a teacher assistant is distilled first and then takes the teacher's place.

    The assistant is the student with another ``embedding_size``. :mod:`recbole_kd.pipeline.assistant` reads its
    ``assistant_*`` options."""

    needs_items: ClassVar[bool] = False
    """Whether forward() reads the positive and negative items of the batch."""

    ranks_student: ClassVar[bool] = False
    """Whether it asks for the student's top-k lists (:meth:`Scorer.top_k`), so that ``kd_candidate_index`` has an
    effect."""

    drawn_sets: ClassVar[tuple[str, ...]] = ()
    """Item sets that every draw_item_sets() replaces. The old sets and their scores are freed before the draw."""

    in_threads: ClassVar[bool] = False
    """Whether compiled kernels and thread pools (:mod:`recbole_kd.ops.threads`) do nearly all of its work on a CPU.

    If so, the trainer of a small student leaves torch one thread."""

    needs_set_scores: bool = True
    """Whether forward() reads the teacher's scores of the item sets. If not, the teacher does not compute them."""

    mask_train: bool = False
    """Whether training items are left out of all item sets."""

    weight_ratio: ClassVar[float] = 1.0
    """Norm of the weighted KD gradient over that of the base loss, at the first batch, around which ``kd_weight=auto``
    searches lambda."""

    weight: float = 1.0
    """The factor lambda in L = L_base + lambda L_KD."""

    reduction: str = "mean"
    """Reduction over the rows of a batch, ``sum`` or ``mean``.

    It is always the reduction of the student's own loss, so that lambda keeps its meaning. HSTU's own loss is a mean
    over the positions of a batch, and one of its rows is a user. With ``mean``, lambda therefore weighs the mean KD
    loss per user against the mean loss per position. The RCE-KD code adds the SUM over the B users of a batch to that
    mean, so its lambda corresponds to lambda * B here."""

    weight_scale: str = "published"
    """What lambda is relative to, ``published`` or ``rows``; see :meth:`reduce_distinct`.

    With ``rows`` each term of the student's own loss brings the KD loss of its query once, in the same reduction, so
    that one lambda means the same under a sum, a mean over rows and HSTU's mean over positions. The weights of a
    :class:`DistillBatch` then count terms, not rows."""

    refresh: int = 1
    """Number of epochs between two draws of the item sets."""

    @takes(student=Kind("a Scorer of the student", lambda value: hasattr(value, "n_queries")), teacher=TEACHER)
    def __init__(self, student: StudentScores, teacher: TeacherScores, *, seed: int = 0) -> None:
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

        Put the bound of a single option into its annotation instead, also a bound by the size of the data or by another
        option.

        Args:
            n_queries, n_items: sizes of the data without the pad.
            options: constructor arguments, defaults included.

        Raises:
            ConfigError: one sentence that names the ``kd_*`` key.
        """

    @classmethod
    def check_student(cls, model: type) -> None:
        """Refuse a student class that lacks what the method reads, before anything is trained.

        Raises:
            ConfigError: one sentence that names the model.
        """

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> frozenset[str]:
        """Return what the teacher must offer with these options, as in :attr:`requires`."""
        return cls.requires

    @classmethod
    def check_teacher(cls, teacher: TeacherScores, options: Mapping[str, Any] | None = None) -> None:
        """Refuse a teacher that lacks what the method needs.

        Args:
            teacher: the scores.
            options: constructor arguments, for :meth:`needs`. If None, only :attr:`requires` counts.

        Raises:
            TeacherError: one sentence that names the teacher.
        """
        needed = cls.requires if options is None else cls.needs(options)
        if "full" in needed and not all(member.complete for member in teacher.members):
            raise TeacherError(no_full_scores(cls.__name__, teacher.name))
        if "confidence" in needed and not teacher.has_confidence:
            raise TeacherError(no_confidence(teacher.name))
        if teacher.masks and options is not None and not cls.draws_unlisted(options):
            raise TeacherError(
                f"teacher_unlisted=mask has no effect on {cls.__name__} with these options, whose loss has no item "
                "outside the teacher's lists: take teacher_unlisted=floor"
            )
        if "embeddings" in cls.requires and teacher.embeddings() is None:
            fix = "make factors of its scores with `recbole-kd convert-teacher FOLDER --out=NEW --svd=64`"
            if not teacher.complete:
                fix = "give its vectors with recbole_kd.teacher_from_vectors"
            raise TeacherError(no_embeddings(cls.__name__, teacher.name, teacher.store, fix))
        missing = [member.name for member in teacher.members if "trajectory" in cls.requires and member.earlier is None]
        if missing:
            raise TeacherError(
                f"{cls.__name__} needs the checkpoints of the teacher's training and {', '.join(missing)} has none: "
                f"train it with --teacher=<model> --kd={cls.__name__}, which keeps them in the teacher's folder"
            )
        if "modalities" in cls.requires and not teacher.modalities:
            raise TeacherError(no_modalities(cls.__name__, teacher.name))

    def begin_training(self, train_items: Ragged) -> None:
        """Store the training items of each query; called once, before the first epoch."""
        self.train_items = train_items.to(self.student_scorer.device)

    def begin_epoch(self, epoch: int, draw: bool = True) -> None:
        """Prepare an epoch: apply the schedule and, if asked, draw item sets.

        The student is not in a training step at that time.

        Args:
            draw: False keeps the item sets of an earlier epoch (``kd_refresh``).
        """
        self.follow_epoch(epoch)
        if draw:
            self.draw_item_sets(epoch)

    def follow_epoch(self, epoch: int) -> None:
        """Set what depends on the epoch number, such as a temperature.

        Called in every epoch, independent of ``kd_refresh``.
        """

    def draw_item_sets(self, epoch: int) -> None:
        """Draw new item sets into ``item_sets``.

        Use :meth:`Scorer.top_k` or :meth:`Scorer.frozen` to ask the student.
        """

    def is_due(self, epoch: int) -> bool:
        """Return whether new item sets are drawn in this epoch."""
        return epoch % self.refresh == 0

    @classmethod
    def draws(cls, options: Mapping[str, Any]) -> bool:
        """Return whether the method redraws item sets, so that ``kd_refresh`` has an effect.

        Args:
            options: constructor arguments, defaults included.
        """
        return cls.draw_item_sets is not Distiller.draw_item_sets

    @classmethod
    def asks_student(cls, options: Mapping[str, Any]) -> bool:
        """Return whether the method ranks the student's items.

        If so, ``kd_candidate_index`` has an effect.
        """
        return cls.ranks_student

    @classmethod
    def draws_unlisted(cls, options: Mapping[str, Any]) -> bool:
        """Return whether the loss has items outside a teacher's ranked list.

        If so, ``teacher_unlisted`` has an effect. Such a method passes its item sets through :meth:`without_uncounted`.
        """
        return False

    @classmethod
    def idle(cls, options: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the options that nothing reads beside the other options.

        Only a choice between forms makes an option idle. A weight of zero, which switches a term off, does not: that
        is how a term is left out for comparison.

        Args:
            options: constructor arguments, defaults included.

        Returns:
            option -> what makes it idle, as it is typed, such as ``kd_gamma=exponential``.
        """
        return {}

    @abstractmethod
    def forward(self, batch: DistillBatch) -> Tensor:
        """Return the KD loss of a batch, ``[]``, in the student's reduction (see :meth:`reduce`).

        Inside a training step every ``self.student_scorer.at(batch.queries, items)`` shares one encoding with the base
        loss.
        """

    def reduce(self, loss: Tensor, weights: Tensor) -> Tensor:
        """Reduce float ``[Q]`` losses and weights to a sum or a mean over batch rows, ``[]``."""
        return self.reduce_total((loss * weights).sum(), weights)

    def reduce_distinct(self, loss: Tensor, weights: Tensor) -> Tensor:
        """Reduce float ``[Q]`` losses to ``[]``, with each distinct query counted once.

        Methods use it if they are published as a sum over the DISTINCT queries of a batch. A mean still divides by the
        number of batch rows. With ``weight_scale="rows"`` it is :meth:`reduce`.
        """
        of_queries = self.distinct_weights(weights)
        return self.reduce_total(loss.sum() if of_queries is None else (loss * of_queries).sum(), weights)

    def distinct_weights(self, weights: Tensor) -> Tensor | None:
        """Return the weights of queries whose loss is published as counted once; None for 1."""
        return weights if self.weight_scale == "rows" else None

    def reduce_total(self, total: Tensor, weights: Tensor) -> Tensor:
        """Turn a sum ``[]`` and float ``[Q]`` weights into the sum or mean over rows, ``[]``."""
        return total if self.reduction == "sum" else total / weights.sum().clamp(min=1)

    def diagnostics(self) -> dict[str, float]:
        """Return metrics of the last begin_epoch() for the log and TensorBoard."""
        return {}

    def without_uncounted(self, ids: Tensor, queries: Tensor | None = None) -> Tensor:
        """Return item sets with 0 in place of the items that ``teacher_unlisted=mask`` leaves out.

        Args:
            ids: int64 ``[Q, n]``, with 0 where a query has fewer items.
            queries: int64 ``[Q]``; None for all queries.
        """
        counted = self.teacher_scores.counted(self.all_queries() if queries is None else queries, ids)
        return ids if counted is None else ids.masked_fill(~counted, 0)

    def all_queries(self) -> Tensor:
        """Return the ids of all queries, pad included, int64 ``[n_queries]``: row q is query q."""
        return torch.arange(self.student_scorer.n_queries, device=self.student_scorer.device)

    def sampling_state(self) -> dict[str, Any]:
        """Return what a resumed training needs besides the parameters."""
        return {"generator": self.generator.get_state()}

    def restore_sampling(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["generator"])


DISTILLER = instance_of(Distiller, words="a distiller from recbole_kd.build_distiller(...)")
"""The kind of an argument that is a distiller."""
