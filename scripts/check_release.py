#!/usr/bin/env python
"""Check of the files in a built wheel and source archive.

Example: `python scripts/check_release.py dist`.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WITH_SOURCE = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "mkdocs.yml",
    "pyproject.toml",
    "requirements.txt",
    "run_recbole_kd.py",
    "setup.py",
)
FOLDERS = ("docs", "properties", "recbole_kd", "results", "scripts", "tests")


def tracked(*folders: str) -> set[str]:
    """Return the files below these folders that belong to the project."""
    listed = subprocess.check_output(["git", "-C", str(ROOT), "ls-files", "--", *folders], text=True)
    return set(listed.splitlines())


def wheel_contents() -> set[str]:
    """Return the files of a wheel: the package, and the property files inside it."""
    properties = {f"recbole_kd/{name}" for name in tracked("properties")}
    return tracked("recbole_kd") | properties


def main(folder: Path) -> int:
    """Print what is missing or too much, and return 1 if anything is."""
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    problems = [f"{wheel.name} lacks {name}" for name in sorted(wheel_contents() - found)]
    problems += [f"{wheel.name} also holds {name}" for name in sorted(found - wheel_contents())]
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    problems += [f"{source.name} lacks {name}" for name in sorted({*tracked(*FOLDERS), *WITH_SOURCE} - packed)]
    print("\n".join(problems) or f"{wheel.name} and {source.name} hold what they must")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
