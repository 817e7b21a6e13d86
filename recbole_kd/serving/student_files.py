"""The files of a student: a folder that can be read without the data set and runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recbole_kd.errors import StudentError
from recbole_kd.storage.files import FILES, WEIGHTS
from recbole_kd.storage.integrity import damage, is_changed
from recbole_kd.storage.json_files import read_json
from recbole_kd.version import __version__

FORMAT = 1
CONFIG, USERS, ITEMS, SEEN, CARD = "config.json", "users.json", "items.json", "seen.safetensors", "README.md"
TRAINED = "trained.safetensors"
"""Weights that were trained, where the final vectors are others (LightGCN); read to start another student from."""
FOLDER = "student"
"""Name of the student's folder in the folder of a run."""

_READ = (WEIGHTS, USERS, ITEMS, SEEN)
_KEYS: dict[str, type] = {
    "model": str, "model_class": str, "form": str, "n_users": int, "n_items": int, "has_times": bool,
    "settings": dict, "protocol": dict, FILES: dict,
}  # fmt: skip
_COLUMNS = ("user", "item", "part", "time")


@dataclass(frozen=True)
class StudentFiles:
    """The checked content of a student's folder.

    Attributes:
        config: content of config.json.
        tensors: content of model.safetensors.
        users, items: external ids in the order of the tables.
        seen: columns user, item, part (0 train, 1 validation, 2 test) and time, int64 (time may be float64), in each
            user's order.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    users: list[str]
    items: list[str]
    seen: dict[str, Tensor]


def student_folder(folder: Path) -> Path:
    """Return the folder of a student, given it or the run's folder that holds it."""
    return folder / FOLDER if (folder / FOLDER / CONFIG).is_file() else folder


def read_student(folder: Path) -> StudentFiles:
    """Return the content of a student's folder, or of the run's folder that contains it.

    Raises:
        StudentError: missing, damaged, or of another version. The message is one sentence.
    """
    folder = student_folder(folder)
    config = _read_config(folder)
    wrong = damage(folder, {name: config[FILES].get(name) for name in _READ}, full=True)
    if wrong is not None:
        raise _damaged(folder, wrong)
    users, items = (_read_tokens(folder, name, config[f"n_{name.removesuffix('.json')}"]) for name in (USERS, ITEMS))
    seen = read_student_tensors(folder, SEEN)
    _check_seen(folder, seen, config)
    return StudentFiles(config, read_student_tensors(folder, WEIGHTS), users, items, seen)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise StudentError(
            f"No student at {folder}: a student is a folder with {CONFIG}, as a run leaves it in saved/<run>/{FOLDER}; "
            "check the path, and student_export in the run's result.json"
        )
    try:
        config = read_json(path)
    except (ValueError, OSError) as error:
        raise _damaged(folder, f"{CONFIG} cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise _damaged(folder, f"{CONFIG} is not a mapping")
    if config.get("format") != FORMAT:
        raise StudentError(
            f"{path} is of format {config.get('format')!r}, recbole_kd {__version__} reads format {FORMAT}: read it "
            f"with the version that wrote it ({_writer(config)}), or run the distillation again"
        )
    lacks = [key for key, kind in _KEYS.items() if type(config.get(key)) is not kind]
    if lacks or is_changed(config) or "sha256" not in config:
        raise _damaged(
            folder, f"{CONFIG} is not what was written ({f'it lacks {lacks[0]}' if lacks else 'its SHA-256 differs'})"
        )
    return config


def _writer(config: Mapping[str, Any]) -> str:
    versions = config.get("versions")
    return (
        f"recbole_kd {versions['recbole_kd']}" if isinstance(versions, dict) and "recbole_kd" in versions else "unknown"
    )


def _read_tokens(folder: Path, name: str, count: int) -> list[str]:
    try:
        tokens = json.loads((folder / name).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, f"{name} cannot be read ({error})") from None
    if not isinstance(tokens, list) or len(tokens) != count or not all(isinstance(token, str) for token in tokens):
        raise _damaged(folder, f"{name} is not a list of {count} ids")
    if len(set(tokens[1:])) < count - 1:
        raise _damaged(folder, f"{name} names an id twice")
    return tokens


def read_student_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Return all tensors of a file of the folder.

    Raises:
        StudentError: it is not a safetensors file.
    """
    try:
        with safe_open(folder / name, framework="pt") as handle:
            return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise _damaged(folder, f"{name} cannot be read ({error})") from None


def read_trained(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights that were trained, of a student whose final vectors are others.

    Raises:
        StudentError: they are missing or damaged.
    """
    wrong = damage(folder, {TRAINED: config[FILES].get(TRAINED)}, full=True)
    if wrong is not None:
        raise _damaged(folder, wrong)
    return read_student_tensors(folder, TRAINED)


def _check_seen(folder: Path, seen: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    bounds = {"user": config["n_users"], "item": config["n_items"], "part": 3}
    if set(seen) != set(_COLUMNS) or len({column.shape for column in seen.values()}) != 1 or seen["user"].dim() != 1:
        raise _damaged(folder, f"{SEEN} does not have the columns {', '.join(_COLUMNS)}")
    for name, bound in bounds.items():
        column, lowest = seen[name], 0 if name == "part" else 1
        if column.dtype != torch.int64 or (
            len(column) and not lowest <= int(column.min()) <= int(column.max()) < bound
        ):
            raise _damaged(folder, f"{SEEN} has a {name} that is out of range")
    key = seen["user"] * 3 + seen["part"]
    if bool((key.diff() < 0).any()):
        raise _damaged(folder, f"{SEEN} is not in order")


def _damaged(folder: Path, wrong: str) -> StudentError:
    return StudentError(
        f"The student {folder} is damaged: {wrong}; copy the folder again, or run the distillation again"
    )
