"""TeacherScores: the interface between a distiller and a teacher, for every kind of store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from recbole_kd.config.argument_kinds import Kind, instance_of
from recbole_kd.data.fingerprint_comparison import describe_mismatch, first_mismatch
from recbole_kd.errors import TeacherError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import top_k_in_blocks

_KEYS_OF_THE_SPLIT = ("eval_args", "benchmark_filename")
_KEYS_OF_THE_FILTER = (
    "user_inter_num_interval",
    "item_inter_num_interval",
    "val_interval",
    "rm_dup_inter",
    "benchmark_filename",
)


class TeacherScores(ABC):
    """Frozen scores of a teacher for every query at every item.

    See :mod:`recbole_kd.scoring.scorer` for queries. All results are float32 constants on the device of the queries.

    Args:
        n_queries, n_items: sizes with the pad (id 0), as RecBole counts them.
        manifest: the description of the teacher: name, settings, metrics, dtype and the fingerprint of its data.

    Attributes:
        earlier: reads the earlier checkpoints of its training, oldest first. None if none were kept.
        taught_by: for a teacher assistant, the teacher that it was distilled from.
        modalities: for a multi-modal teacher, the scores of each modality by name; empty for any other.
        covered: bool ``[n_queries]``, the queries that it knows something about. None if it knows all. The others have
            no KD term.
    """

    store: str
    """Name of the store, as in ``teacher_store``."""

    complete: bool = True
    """Whether it scores every item. Ranked lists do not."""

    has_confidence: bool = False
    """Whether :meth:`confidence` has an answer."""

    masks: bool = False
    """Whether :meth:`counted` leaves items out."""

    def __init__(self, n_queries: int, n_items: int, manifest: Mapping[str, Any] | None = None) -> None:
        self.n_queries = n_queries
        self.n_items = n_items
        self.manifest = dict(manifest or {})
        self.earlier: Callable[[], list[TeacherScores]] | None = None
        self.taught_by: TeacherScores | None = None
        self.modalities: Mapping[str, TeacherScores] = {}
        self.covered: Tensor | None = None

    @property
    def name(self) -> str:
        """The teacher's model name."""
        return str(self.manifest.get("model", type(self).__name__))

    @property
    def members(self) -> list[TeacherScores]:
        """The teachers behind it: itself, or each teacher of an ensemble."""
        return [self]

    @property
    def indexes(self) -> bool:
        """Whether each call of :meth:`top_k` makes an index, so that one call for all queries is the cheapest."""
        return False

    @abstractmethod
    def full(self, queries: Tensor) -> Tensor:
        """Return scores at all items: int64 ``[B]`` -> float32 ``[B, n_items]``."""

    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        """Return scores at chosen items: int64 ``[B]``, int64 ``[B, K]`` -> float32 ``[B, K]``."""
        return self.full(queries).gather(1, items)

    def counted(self, queries: Tensor, items: Tensor) -> Tensor | None:
        """Return which items have a place in a loss: int64 ``[B]``, int64 ``[B, K]`` -> bool ``[B, K]``.

        None if all have. Ranked lists with ``teacher_unlisted=mask`` leave out the items outside a query's list.
        """
        return None

    def confidence(self, queries: Tensor, items: Tensor) -> Tensor:
        """Return the confidence in items: int64 ``[B]``, ``[B, K]`` -> float32 ``[B, K]``.

        It is at least 0, and 0 for an item outside a list.

        Raises:
            TeacherError: it has none (:attr:`has_confidence`).
        """
        raise TeacherError(no_confidence(self.name))

    @torch.no_grad()
    def top_k(self, queries: Tensor, k: int, exclude: Ragged | None = None) -> tuple[Tensor, Tensor]:
        """Return each query's k best items, best first, ties by id: int64 and float32 ``[Q, k]``."""
        return top_k_in_blocks(self.full, queries, self.n_items, k, exclude)

    def embeddings(self) -> tuple[Tensor, Tensor] | None:
        """Return query vectors ``[n_queries, d]`` and item vectors ``[n_items, d]``, or None."""
        return None

    def trajectory(self) -> list[TeacherScores] | None:
        """Return the checkpoints of its training, oldest first, itself last; None without any."""
        return None if self.earlier is None else [*self.earlier(), self]

    def check_data(self, fingerprint: Mapping[str, Any]) -> None:
        """Refuse a teacher that was made on other data.

        Raises:
            TeacherError: names what differs, both fingerprints, the likely cause and the key to set.
        """
        own = self.manifest.get("data")
        if own is not None:
            difference = describe_mismatch(own, fingerprint)
            if difference:
                made = _made_with(str(first_mismatch(own, fingerprint)), self.manifest.get("settings") or {})
                raise TeacherError(f"The teacher {self.name} was made on other data: {difference}{made}")


TEACHER = instance_of(TeacherScores, words="a teacher from recbole_kd.load_teacher(...)")
"""The kind of an argument that is a teacher."""

TABLE = Kind(
    "a tensor of two dimensions, of floating-point numbers",
    lambda value: isinstance(value, Tensor) and value.ndim == 2 and value.is_floating_point(),
)
"""The kind of an argument that holds scores or vectors."""


def no_confidence(teacher: str) -> str:
    """Return the error message for a teacher without confidences."""
    return (
        f"The confidence in kd_list_weights needs a teacher's confidences and {teacher} has none: import its lists "
        "with `recbole-kd import-teacher FILE --confidence=COLUMN`, or leave the confidence out"
    )


def _made_with(part: str, settings: Mapping[str, Any]) -> str:
    """Return the data keys to set to use a teacher, as far as its settings tell."""
    keys = (
        _KEYS_OF_THE_SPLIT
        if part in ("train", "valid", "test")
        else _KEYS_OF_THE_FILTER
        if part in ("users", "items")
        else ()
    )
    given = {key: settings[key] for key in keys if settings.get(key) is not None}
    if "eval_args" in given and given["eval_args"].get("order") == "RO":
        given["seed"] = settings["seed"] if settings.get("split_seed") is None else settings["split_seed"]
    if keys == _KEYS_OF_THE_SPLIT and settings.get("time_order") == "recbole":
        given["time_order"] = "recbole"  # exact order is the default, and RecBole's own data sets have only theirs
    words = ", ".join(f"{key}={value}" for key, value in given.items())
    return f". To use it, set what it was made with: {words}" if words else ""
