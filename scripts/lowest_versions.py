#!/usr/bin/env python
"""Print the lowest direct versions that pyproject.toml allows, as a requirements file.

Example: `python scripts/lowest_versions.py fast tune test > lowest.txt`, with the extras to include.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
BOUND = re.compile(r"([\w.-]+(?:\[\w+\])?)(?:>=|==)([\w.]+)")


def lowest(requirement: str) -> str:
    """Return a requirement with its lowest version: ``torch>=2.4.1,<3`` gives ``torch==2.4.1``.

    One without a lower bound is returned as it is.
    """
    found = BOUND.match(requirement.replace(" ", ""))
    return f"{found[1]}=={found[2]}" if found else requirement


def requirements(extras: list[str]) -> list[str]:
    """Return the requirements of the package and of some of its extras.

    Raises:
        SystemExit: an extra is not in pyproject.toml.
    """
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"]
    for extra in extras:
        if extra not in known:
            raise SystemExit(f"{extra} is not an extra of {PYPROJECT.name}: choose among {', '.join(known)}")
    return [*project["dependencies"], *(one for extra in extras for one in known[extra])]


if __name__ == "__main__":
    print("\n".join(map(lowest, requirements(sys.argv[1:]))))
