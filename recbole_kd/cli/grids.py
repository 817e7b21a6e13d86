"""Grids by path, or by name if they come with the package."""

from __future__ import annotations

from pathlib import Path

from recbole_kd.config.property_layers import properties_dir
from recbole_kd.experiments.grid import Grid, read_grid

HELP = "a YAML file, or the name of a grid of the package (citeulike-mf-mf)"
FOLDER = "reproduce"
"""Folder of the package's grids in its property files."""


def named_grid(word: str, *, allow_code: bool = False) -> Grid:
    """Return the grid of a file, else the package's grid of that name.

    Raises:
        ConfigError: there is no such grid, or the file is not a grid. Also if it names code as a method and
            ``allow_code`` is False.
    """
    path = Path(word)
    if not path.exists():
        own = properties_dir() / FOLDER / path.with_suffix(".yaml").name
        given_as_own = path.parent in (Path(), Path("properties") / FOLDER)
        path = own if own.is_file() and given_as_own else path
    return read_grid(path, allow_code=allow_code)
