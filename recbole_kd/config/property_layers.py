"""Property files of recbole_kd: their folder, their reader, and the layers of a run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from recbole_kd.config.parsing import read_config_file
from recbole_kd.errors import ConfigError


def layers(*names: str) -> tuple[dict[str, Any], list[str]]:
    """Merge property files, later names over earlier ones; names without a file are skipped.

    Args:
        names: such as ``overall``, ``dataset/citeulike``, ``model/MF-ml-100k``.

    Returns:
        the merged mapping, and the names of the files that were found.
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
    """Return a user's name for a model; RecBole has two classes for HSTU."""
    return {"HSTUGeneral": "HSTU"}.get(model, model)


def recbole_name(model: str, setting: str) -> str:
    """Return RecBole's class name of a model for a setting."""
    return {("HSTU", "general"): "HSTUGeneral"}.get((model, setting), model)


def student_layers(
    model: str, dataset: str, protocol: str = "recbole", setting: str = "general"
) -> tuple[dict[str, Any], list[str]]:
    """Return the property layers of a student trained alone."""
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
    """Return the property layers of a teacher."""
    name = public_name(model)
    names = [f"model/{name}", f"model/{name}-{dataset}", f"teacher/{name}", f"teacher/{name}-{dataset}"]
    return layers("overall", f"protocol/{protocol}", f"dataset/{dataset}", f"setting/{setting}", *names)


def distiller_layers(kd: str, dataset: str, student: str, teacher: str) -> tuple[dict[str, Any], list[str]]:
    """Return the property layers of a distilled student, on top of :func:`student_layers`.

    Methods that are combined (``RCEKD+DE``) each keep their own ``kd_*`` keys, as ``kd_k.RCEKD``. Keys of the student's
    base training apply if no two of the methods set them differently; see :func:`check_training_keys`.
    """
    if "+" in kd:
        merged: dict[str, Any] = {}
        applied: list[str] = []
        for part in _parts_of(kd):
            own, files = distiller_layers(part, dataset, student, teacher)
            merged |= {f"{key}.{part}": value for key, value in own.items() if key.startswith("kd_")}
            applied += files
        shared = _training_keys(kd, dataset, student, teacher).items()
        agreed = {key: values[0] for key, of in shared if len(values := list(dict.fromkeys(of.values()))) == 1}
        return {**merged, **agreed}, applied
    return layers(f"distiller/{kd}", _pair_file(kd, dataset, student, teacher))


def _pair_file(kd: str, dataset: str, student: str, teacher: str) -> str:
    return f"distiller/{kd}-{dataset}-{public_name(student)}-{public_name(teacher)}"


def has_weight_of_pair(kd: str, dataset: str, student: str, teacher: str) -> bool:
    """Return whether a published or tuned ``kd_weight`` of a method, data set and pair is known."""
    return "kd_weight" in layers(_pair_file(kd, dataset, student, teacher))[0]


def check_training_keys(kd: str, dataset: str, student: str, teacher: str, given: Mapping[str, Any]) -> None:
    """Refuse combined methods whose property files train the student differently.

    A key that the user gives is the one that counts.

    Args:
        kd: the methods, ``RCEKD+DE``. dataset, student, teacher: as of :func:`distiller_layers`.
        given: keys of the user.

    Raises:
        ConfigError: names the key, the methods and their values.
    """
    if "+" not in kd:
        return
    for key, of in _training_keys(kd, dataset, student, teacher).items():
        if key not in given and len(set(of.values())) > 1:
            said = ", ".join(f"{part} with {key}={value:g}" for part, value in of.items())
            raise ConfigError(
                f"--kd={kd} combines methods that are published with different {key} for {student} under {teacher} on "
                f"{dataset} ({said}): say which, such as --{key}={next(iter(of.values())):g}"
            )


def _training_keys(kd: str, dataset: str, student: str, teacher: str) -> dict[str, dict[str, Any]]:
    """Return what the files of combined methods say on base training: key -> method -> value."""
    found: dict[str, dict[str, Any]] = {}
    for part in _parts_of(kd):
        for key, value in distiller_layers(part, dataset, student, teacher)[0].items():
            if not key.startswith("kd_"):
                found.setdefault(key, {})[part] = value
    return found


def _parts_of(kd: str) -> list[str]:
    return [name.strip() for name in kd.split("+")]


def names_in(folder: str) -> list[str]:
    """Return the names of the property files in a folder."""
    return sorted(path.stem for path in Path(properties_dir() / folder).glob("*.yaml"))


@cache
def properties_dir() -> Path:
    """Return the folder of property files, in an installed package or in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one property file: plain values only, ``1e-3`` is a float, nothing is evaluated.

    Raises:
        ConfigError: the file is missing or is not a YAML mapping.
    """
    return dict(read_config_file(path))
