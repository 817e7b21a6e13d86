"""Scores of each modality of a multi-modal teacher, stored next to its own scores.

A model offers them by a method ``modality_vectors()``: modality -> (query vectors, item vectors), whose dot product is
that modality's own score.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from recbole_kd.errors import TeacherError
from recbole_kd.storage.files import MODALITIES, read_tensors
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.number_format import rounded
from recbole_kd.teacher.stores.factors import FactorScores

_TABLES = ("query_vectors", "item_vectors")


def modalities_of(model: nn.Module) -> dict[str, TeacherScores]:
    """Return the modalities of a trained model, sorted by name; empty if it has none."""
    vectors = getattr(model, "modality_vectors", None)
    if vectors is None:
        return {}
    return {
        name: FactorScores(queries.detach(), items.detach(), {"model": name})
        for name, (queries, items) in sorted(vectors().items())
    }


def write_modalities(model: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Write the modalities of a trained model, if any, into a teacher folder."""
    write_vectors(modalities_of(model), folder, dtype)


def write_vectors(modalities: Mapping[str, TeacherScores], folder: Path, dtype: torch.dtype) -> None:
    """Write the modalities of a teacher, if any, into a folder."""
    tensors: dict[str, Tensor] = {}
    for name, scores in modalities.items():
        vectors = scores.embeddings()
        assert vectors is not None, "modalities are factors"
        for table, values in zip(_TABLES, vectors, strict=True):
            tensors[f"{name}.{table}"] = rounded(values, dtype)
    if tensors:
        save_file(tensors, folder / MODALITIES)


def read_modalities(folder: Path) -> dict[str, TeacherScores]:
    """Return the modalities in a teacher folder, empty if there are none.

    Raises:
        TeacherError: the file is damaged.
    """
    path = folder / MODALITIES
    if not path.is_file():
        return {}
    tensors = read_tensors(path)
    names = sorted({name.rpartition(".")[0] for name in tensors})
    if set(tensors) != {f"{name}.{table}" for name in names for table in _TABLES} or any(
        t.ndim != 2 for t in tensors.values()
    ):
        raise TeacherError(
            f"{path} does not hold modalities of a teacher; delete the folder {folder} and train the teacher again"
        )
    queries, items = _TABLES
    return {
        name: FactorScores(tensors[f"{name}.{queries}"], tensors[f"{name}.{items}"], {"model": name}) for name in names
    }
