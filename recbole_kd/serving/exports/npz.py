"""Vectors with external ids as a NumPy archive, in float32 or in int8 with row scales."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recbole_kd.errors import StudentError
from recbole_kd.serving.exports.exported import Exported, ScoredExport, UserVectors, VectorForm
from recbole_kd.serving.student_scores import Full

if TYPE_CHECKING:
    from recbole_kd.serving.student import Student

VECTORS = "vectors.npz"
LARGEST = 127


class Npz(VectorForm):
    """The form vectors.npz with float32 vectors.

    It has users and items as text ``[n]``, and user_vectors and item_vectors float32 ``[n, d]`` in the same order.
    """

    name = "npz"

    def write(self, student: Student, folder: Path) -> None:
        found = student.embeddings()
        np.savez(
            folder / VECTORS,
            users=np.array(found.users),
            items=np.array(found.items),
            user_vectors=found.user_vectors,
            item_vectors=found.item_vectors,
        )

    def read(self, student: Student, folder: Path) -> Exported:
        with np.load(folder / VECTORS) as archive:
            arrays = dict(archive)
        check_ids(student, arrays)
        return _Products(UserVectors(student, arrays["user_vectors"]), arrays["item_vectors"])


class Int8(VectorForm):
    """The form vectors.npz with int8 vectors ``[n, d]``.

    It also has user_scales and item_scales, float32 ``[n]``. A vector is its row of integers times its scale, which is
    the row's largest magnitude / 127.
    """

    name = "int8"
    exact = False

    def write(self, student: Student, folder: Path) -> None:
        found = student.embeddings()
        users, items = quantised(found.user_vectors), quantised(found.item_vectors)
        np.savez(
            folder / VECTORS,
            users=np.array(found.users),
            items=np.array(found.items),
            user_vectors=users[0],
            item_vectors=items[0],
            user_scales=users[1],
            item_scales=items[1],
        )

    def read(self, student: Student, folder: Path) -> Exported:
        with np.load(folder / VECTORS) as archive:
            arrays = dict(archive)
        check_ids(student, arrays)
        exported, items = (arrays[f"{kind}_vectors"] * arrays[f"{kind}_scales"][:, None] for kind in ("user", "item"))
        return _Int8Products(UserVectors(student, exported), items)


def quantised(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float ``[n, d]`` as int8 ``[n, d]``, and the scale of each row, float32 ``[n]``.

    The scale of a row of zeros is 0.
    """
    scales = (np.abs(vectors).max(axis=1, initial=0.0) / LARGEST).astype(np.float32)
    steps = vectors / np.where(scales > 0, scales, 1.0)[:, None]
    return np.clip(np.rint(steps), -LARGEST, LARGEST).astype(np.int8), scales


def check_ids(student: Student, arrays: dict[str, np.ndarray]) -> None:
    """Refuse an archive that changes ids, such as one that ends in a NUL character.

    Raises:
        StudentError: names the first such id.
    """
    for kind in ("users", "items"):
        tokens = getattr(student, kind).tokens[1:]
        changed = [token for token, kept in zip(tokens, arrays[kind].tolist(), strict=True) if token != kept]
        if changed:
            raise StudentError(f"The id {changed[0]!r} cannot be kept in a NumPy archive: it reads {kind} otherwise")


class _Products(ScoredExport):
    """Scores as products of vectors.

    Args:
        users: the query vectors.
        items: float32 ``[items, d]`` without the pad.
    """

    def __init__(self, users: UserVectors, items: np.ndarray) -> None:
        super().__init__(len(items) + 1)
        self._users, self._items = users, items

    def _queries(self, users: Tensor, as_tested: bool) -> np.ndarray:
        return self._users.of(users, as_tested)

    def of_users(self, users: Tensor, as_tested: bool) -> Full:
        queries = self._queries(users, as_tested)

        def full(rows: Tensor) -> Tensor:
            return with_pad(queries[rows.numpy()] @ self._items.T)

        return full


class _Int8Products(_Products):
    def _queries(self, users: Tensor, as_tested: bool) -> np.ndarray:
        steps, scales = quantised(super()._queries(users, as_tested))
        return steps * scales[:, None]


def with_pad(scores: np.ndarray) -> Tensor:
    """Add a first column of ``-inf`` for the pad to scores float32 ``[B, items]``."""
    return torch.nn.functional.pad(torch.from_numpy(scores), (1, 0), value=-torch.inf)
