"""Rules for the name of a data set, which also names folders and files."""

from __future__ import annotations

import os
from pathlib import PurePath

from recbole_kd.errors import ConfigError

LONGEST = 100
"""Most bytes: together with model names, a seed and a time it names the folder of a run."""


def check_dataset_name(name: str) -> None:
    """Refuse a name that cannot be a folder below ``data_path``.

    Raises:
        ConfigError: a path, a pattern of the shell, a blank, a control character, or a name that is too long.
    """
    path = PurePath(name)
    why = ""
    if path.name != name or name in (".", ".."):
        why = (
            f"it is a path; try --data_path={path.parent} --dataset={path.name}"
            if path.name not in ("", "..")
            else "it is a path"
        )
    elif not name.isprintable() or name.strip() != name:
        why = "it begins or ends with a blank, or has a character that cannot be printed"
    elif any(character in name for character in "*?"):
        why = "it is a pattern of the shell; a run has one data set"
    elif len(os.fsencode(name)) > LONGEST:
        why = f"it has {len(os.fsencode(name))} bytes, but at most {LONGEST} are allowed"
    if why:
        raise ConfigError(
            f"Invalid --dataset={name[:LONGEST]!r}: expected the name of a folder below --data_path, but {why}."
        )
