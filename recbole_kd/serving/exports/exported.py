"""Interfaces of an export: the writer of a format, and the export that is read again."""

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
        """Return the k best items of known users: ids int64, scores float32, ``[B, k]`` each.

        Args:
            users: int64 ``[B]``. as_tested: a model of histories reads what the run's test gave it, else all that is
                known. seen: items that are left out, a row a user.
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
    """Query vectors of known users, from an export or from the student.

    The vector of a student of histories depends on the history. An export holds the vectors of the whole known
    histories; a ranking of the test items asks the student for the vectors of the histories before them.

    Args:
        student: a student with vectors.
        exported: float ``[users, d]`` without the pad; None always asks the student.
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
        name: in ``--to``, and of its folder. packages: optional modules that it needs -> what pip installs. extra: of
            this package, with the same. exact: are its scores those of the student up to rounding of float32?
    """

    name: str
    packages: dict[str, str]
    extra: str = ""
    exact: bool = True

    def check(self, student: Student) -> None:
        """Refuse a student that has no such form, or a missing package.

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
        """Read what was written.

        Args:
            student: supplies what the form does not hold, such as histories.

        Raises:
            StudentError: the files do not hold the student's ids.
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
