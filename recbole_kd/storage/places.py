"""Checks of paths that a user types."""

from __future__ import annotations

import os
from pathlib import Path

from recbole_kd.errors import ConfigError

LONGEST_NAME = 255
"""Most bytes of a file name, on common file systems."""

DEEPEST = 200
"""Most folders of a path: more are a mistake, and Python makes each by a recursive call."""


def user_path(text: str | Path, key: str) -> Path:
    """Return a path with ``~`` replaced by the home folder.

    Args:
        text: the path as typed. key: the key that the user set, for the error.

    Raises:
        ConfigError: ``~NAME`` is not a user of this machine, or the path has too long a name or too many folders.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{key}={text} begins with the home folder of a user whom this machine does not know: write the path out"
        ) from None
    longest = max((len(os.fsencode(name)) for name in path.parts), default=0)
    if longest > LONGEST_NAME or len(path.parts) > DEEPEST:
        why = (
            f"a name of {longest} bytes (at most {LONGEST_NAME})"
            if longest > LONGEST_NAME
            else f"{len(path.parts)} folders (at most {DEEPEST})"
        )
        raise ConfigError(f"{key}={str(text)[:40]}... has {why}: name a shorter path")
    return path
