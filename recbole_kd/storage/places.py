"""Paths that a user types."""

from __future__ import annotations

from pathlib import Path

from recbole_kd.errors import ConfigError


def user_path(text: str | Path, key: str) -> Path:
    """Return a path with ``~`` as the home folder it stands for.

    Args:
        text: what the user typed. key: by which he did, for the error.

    Raises:
        ConfigError: ``~NAME`` names nobody on this machine.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{key}={text} begins with the home folder of a user whom this machine does not know: write the path out"
        ) from None
