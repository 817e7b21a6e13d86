"""Vectors of users and items in files: .npz, .safetensors, or two .npy, with ids beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from recbole_kd.errors import ConfigError, TeacherError

VECTOR_SUFFIXES = (".npz", ".safetensors", ".npy")
VECTORS = ("user_vectors", "item_vectors")
"""Names of the matrices in a file that holds both."""
IDS = ("users", "items")
"""Names of their ids in a file of arrays."""


@dataclass(frozen=True)
class VectorTables:
    """The vectors of a teacher.

    Attributes:
        users, items: float ``[users, d]``, ``[items, d]``.
        user_ids, item_ids: external ids of their rows. None if the rows are those of the data set, with the pad.
    """

    users: np.ndarray
    items: np.ndarray
    user_ids: list[str] | None
    item_ids: list[str] | None


def read_vectors(
    path: Path, item_vectors: Path | None = None, user_ids: Path | None = None, item_ids: Path | None = None
) -> VectorTables:
    """Read the vectors of a teacher; no code of a file is executed.

    Args:
        path: ``.npz`` with user_vectors, item_vectors and, if ids are not given, users and items, as ``recbole-kd
            export --to=npz`` writes it; ``.safetensors`` with user_vectors and item_vectors; or ``.npy`` of the users.
        item_vectors: ``.npy`` of the items, beside one of the users only.
        user_ids, item_ids: text files with an external id a line, in the order of the rows.

    Raises:
        ConfigError: files that do not belong together.
        TeacherError: a file is missing, damaged, or lacks a matrix.
    """
    if (path.suffix == ".npy") != (item_vectors is not None):
        reason = "needs the items' vectors too: --item_vectors=FILE.npy" if item_vectors is None else "has both already"
        raise ConfigError(f"{path} {reason}")
    arrays = _arrays(path) if item_vectors is None else {VECTORS[0]: _array(path), VECTORS[1]: _array(item_vectors)}
    missing = [name for name in VECTORS if name not in arrays]
    if missing:
        raise TeacherError(f"{path} has no {' and no '.join(missing)}: it has {', '.join(sorted(arrays)) or 'nothing'}")
    ids = [
        [str(one) for one in arrays[name].tolist()] if file is None and name in arrays else _ids(file)
        for name, file in zip(IDS, (user_ids, item_ids), strict=True)
    ]
    return VectorTables(arrays[VECTORS[0]], arrays[VECTORS[1]], *ids)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, KeyError, TypeError, BadZipFile, SafetensorError) as error:
        raise _unreadable(path, error) from None


def _array(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(found, np.ndarray):
        raise TeacherError(f"{path} holds several arrays: expected one matrix, as numpy.save writes it")
    return found


def _ids(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> TeacherError:
    if not path.is_file():
        return TeacherError(f"No file of a teacher's vectors or ids at {path}: check the path")
    return TeacherError(f"{path} cannot be read: {' '.join(str(error).split())[:160]}")
