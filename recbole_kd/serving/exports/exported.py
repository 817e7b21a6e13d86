"""The interfaces of a form of export and of an export that is read again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recbole_kd.errors import ConfigError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import top_k_in_blocks
from recbole_kd.serving.student_scores import Full

if TYPE_CHECKING:
    from recbole_kd.serving.student import Student


class Exported(ABC):
    """An export that was read again from its files."""

    @abstractmethod
    def top_k(self, users: Tensor, as_tested: bool, k: int, seen: Ragged) -> tuple[Tensor, Tensor]:
        """Return the k best items of known users: ids int64 and scores float32, ``[B, k]``.

        Args:
            users: int64 ``[B]``.
            as_tested: whether a sequential model reads the histories of the run's test, or all known items.
            k: length of the lists.
            seen: items to leave out, one row per user.
        """


class ScoredExport(Exported):
    """An export that scores the whole catalogue of a user."""

    def __init__(self, n_items: int) -> None:
        self._n_items = n_items

    @abstractmethod
    def of_users(self, users: Tensor, as_tested: bool) -> Full:
        """Return the scores of known users, int64 ``[B]``, at all items."""

    def top_k(self, users: Tensor, as_tested: bool, k: int, seen: Ragged) -> tuple[Tensor, Tensor]:
        return top_k_in_blocks(self.of_users(users, as_tested), torch.arange(len(users)), self._n_items, k, seen)


class UserVectors:
    """The query vectors of known users, from an export or from the student.

    The vector of a user of a sequential student depends on the history. An export holds the vectors of all known items.
    For a ranking of test items the student computes the vectors of the histories before them.

    Args:
        student: a student with vectors.
        exported: float ``[users, d]`` without the pad. None always asks the student.
    """

    def __init__(self, student: Student, exported: np.ndarray | None) -> None:
        self._scores, self._exported = student.scores, exported

    def of(self, users: Tensor, as_tested: bool) -> np.ndarray:
        """Return the vectors of int64 ``[B]`` users, float32 ``[B, d]``."""
        if self._exported is None or (as_tested and self._scores.reads_histories):
            found: np.ndarray = self._scores.user_vectors(users, as_tested).numpy()
            return found
        return self._exported[users.numpy() - 1]


class Form(ABC):
    """One form of an export.

    Attributes:
        name: its name in ``--to`` and of its folder.
        packages: optional modules that it needs -> their names for pip.
        extra: extra of this package that installs them.
        exact: whether its scores are those of the student up to float32 rounding.
    """

    name: str
    packages: dict[str, str]
    extra: str = ""
    exact: bool = True

    def check(self, student: Student) -> None:
        """Refuse a student without this form, or a missing package.

        Raises:
            ConfigError: names the forms that work, or the pip command.
        """
        missing = [package for module, package in self.packages.items() if find_spec(module) is None]
        if missing:
            raise ConfigError(
                f"The form {self.name} needs {', '.join(missing)}, not installed here: run `pip install "
                f"{' '.join(missing)}` (extra {self.extra}), or leave the form out"
            )

    @abstractmethod
    def write(self, student: Student, folder: Path) -> None:
        """Write the form into an empty folder."""

    @abstractmethod
    def read(self, student: Student, folder: Path) -> Exported:
        """Read the written form.

        Args:
            student: supplies what the form does not contain, such as histories.
            folder: folder of the form.

        Raises:
            StudentError: the files do not contain the student's ids.
        """


class VectorForm(Form):
    """A form that consists of vectors, whose dot product is the score."""

    packages: dict[str, str] = {}  # noqa: RUF012 - a constant of the class

    def check(self, student: Student) -> None:
        super().check(student)
        if not student.scores.has_vectors:
            raise ConfigError(
                f"The form {self.name} holds vectors, and {student.config['model']} has none whose dot product is its "
                "score: export it to onnx, which computes its scores"
            )
