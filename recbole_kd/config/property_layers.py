"""Property files of recbole_kd: where they are, how one is read, which apply to a run and in what order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_kd.config.parsing import read_config_file


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


def public_name(model: str) -> str:
    """The name by which a user knows a model: HSTU has two faces in RecBole."""
    return {"HSTUGeneral": "HSTU"}.get(model, model)


def recbole_name(model: str, setting: str) -> str:
    """The name by which RecBole knows the face of a model that serves a setting."""
    return {("HSTU", "general"): "HSTUGeneral"}.get((model, setting), model)


def student_layers(
    model: str, dataset: str, protocol: str = "recbole", setting: str = "general"
) -> tuple[dict[str, Any], list[str]]:
    """Of a student trained alone."""
    name = public_name(model)
    return layers(
        "overall",
        f"protocol/{protocol}",
        f"dataset/{dataset}",
        f"setting/{setting}",
        f"model/{name}",
        f"model/{name}-{dataset}",
    )


def teacher_layers(
    model: str, dataset: str, protocol: str = "recbole", setting: str = "general"
) -> tuple[dict[str, Any], list[str]]:
    """Of a teacher."""
    name = public_name(model)
    names = [f"model/{name}", f"model/{name}-{dataset}", f"teacher/{name}", f"teacher/{name}-{dataset}"]
    return layers("overall", f"protocol/{protocol}", f"dataset/{dataset}", f"setting/{setting}", *names)


def distiller_layers(kd: str, dataset: str, student: str, teacher: str) -> tuple[dict[str, Any], list[str]]:
    """Of a distilled student, on top of :func:`student_layers`."""
    return layers(f"distiller/{kd}", f"distiller/{kd}-{dataset}-{public_name(student)}-{public_name(teacher)}")


def names_in(folder: str) -> list[str]:
    """The property files of one kind, by name."""
    return sorted(path.stem for path in Path(properties_dir() / folder).glob("*.yaml"))


def properties_dir() -> Path:
    """Return the folder of property files: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one property file: plain values only, ``1e-3`` is a float, nothing is evaluated.

    Raises:
        ConfigError: the file is missing or is not a YAML mapping.
    """
    return dict(read_config_file(path))
