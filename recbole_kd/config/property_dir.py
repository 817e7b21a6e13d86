"""Where the property files of recbole_kd are, and how one is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_kd.config.parsing import read_config_file


def properties_dir() -> Path:
    """The folder of property files: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one property file: plain values only, ``1e-3`` is a float, nothing is evaluated.

    Raises:
        ConfigError: the file is missing or is not a YAML mapping.
    """
    return dict(read_config_file(path))
