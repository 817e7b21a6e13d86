"""Which property files of ours apply to a run, and in what order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_kd.arguments import read_config_file
from recbole_kd.property_files import properties_dir


def layers(*names: str) -> tuple[dict[str, Any], list[str]]:
    """Merge our property files, later names over earlier ones; names without a file are passed over.

    Args:
        names: such as ``overall``, ``dataset/citeulike``, ``model/MF-ml-100k``.

    Returns:
        The merged mapping and the names of the files that applied.
    """
    merged: dict[str, Any] = {}
    applied: list[str] = []
    for name in names:
        path = properties_dir() / f"{name}.yaml"
        if path.is_file():
            merged.update(read_config_file(path))
            applied.append(name)
    return merged, applied


def student_layers(model: str, dataset: str, protocol: str = "recbole") -> tuple[dict[str, Any], list[str]]:
    """Of a student trained alone."""
    return layers("overall", f"protocol/{protocol}", f"dataset/{dataset}", f"model/{model}", f"model/{model}-{dataset}")


def teacher_layers(model: str, dataset: str, protocol: str = "recbole") -> tuple[dict[str, Any], list[str]]:
    """Of a teacher."""
    names = [f"model/{model}", f"model/{model}-{dataset}", f"teacher/{model}", f"teacher/{model}-{dataset}"]
    return layers("overall", f"protocol/{protocol}", f"dataset/{dataset}", *names)


def distiller_layers(kd: str, dataset: str, student: str, teacher: str) -> tuple[dict[str, Any], list[str]]:
    """Of a distilled student, on top of :func:`student_layers`."""
    return layers(f"distiller/{kd}", f"distiller/{kd}-{dataset}-{student}-{teacher}")


def names_in(folder: str) -> list[str]:
    """The property files of one kind, by name."""
    return sorted(path.stem for path in Path(properties_dir() / folder).glob("*.yaml"))
