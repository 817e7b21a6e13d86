"""Atomic files as lists of rows."""

from __future__ import annotations

from pathlib import Path


def rows_of(path: Path) -> list[list[str]]:
    """Every line of an atomic file, the header first."""
    return [line.split("\t") for line in path.read_text().splitlines()]
