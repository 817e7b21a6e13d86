"""The definition of a Ray study, and whether the one to resume is the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_kd.errors import ConfigError
from recbole_kd.storage.json_files import read_json
from recbole_kd.tuning.ray_record import FOLDER as OF_RECORD
from recbole_kd.tuning.space import Space
from recbole_kd.tuning.study import STUDY_FILE, Study, as_json, what_counts

OF_RAY = "ray"
"""Folder of Ray's own files in the folder of the study. Ray writes pickles there, which are never read."""

BEFORE_RECORD = ("runs", OF_RAY, OF_RECORD, "tuner.pkl", "trainable.pkl")
"""Names in the folder of a study that was interrupted before its record existed.

The last two are Ray's, of earlier versions."""

FIXED = (
    "max_evals",
    "search_seed",
    "searcher",
    "scheduler",
    "grace_period",
    "reduction_factor",
    "max_concurrent",
    "max_failures",
)
"""Search keys that must not change when a study is resumed."""


def is_known(study: Study, space: Space, options: Mapping[str, Any]) -> bool:
    """Return whether there is a study to resume.

    Raises:
        ConfigError: it exists and is not to be resumed, differs from the one to resume, or its file is damaged.
        TargetError: its folder holds something else.
    """
    file = study.folder / STUDY_FILE
    study.check_target(STUDY_FILE, bool(options["resume"]), BEFORE_RECORD)
    if not file.is_file():
        return False
    made, wanted = _read_study(file), definition(study, space, options)
    for part, words in (
        ("space", "for another search space"),
        ("base", "with other keys"),
        ("search", "by another search"),
    ):
        if made.get(part) != wanted[part]:
            raise ConfigError(
                f"The study {study.folder} was made {words}{_difference(made.get(part), wanted[part])}: give it the "
                "same, or name another with --study=NAME"
            )
    return True


def _read_study(file: Path) -> dict[str, Any]:
    """Return what :func:`definition` gave of an earlier study (ConfigError)."""
    try:
        made = read_json(file)
        if not isinstance(made, dict):
            raise ValueError(f"it holds a {type(made).__name__}, not a mapping")
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"{file} is damaged ({error}): delete the folder of the study, or name another with --study=NAME"
        ) from None
    return made


def definition(study: Study, space: Space, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what defines a study. Ray resumes it only if nothing of this changed."""
    return {
        "space": as_json(space.plain()),
        "base": what_counts(study.base),
        "search": {key: options[key] for key in FIXED},
    }


def _difference(made: Any, wanted: Mapping[str, Any]) -> str:
    """Return the first key that differs, with both values."""
    made = made or {}
    key = next((key for key in (*wanted, *made) if made.get(key) != wanted.get(key)), None)
    return (
        "" if key is None or key in ("parameters", "fixed") else f" ({key}={made.get(key)!r}, not {wanted.get(key)!r})"
    )
