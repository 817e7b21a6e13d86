"""Surroundings that differ: no RecBole, no folder for compiled kernels, another system."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from tests.support.fresh import python
from tests.support.paths import ROOT
from tests.support.scripts import script

WITHOUT_RECBOLE = "import sys; sys.modules['recbole'] = None"
"""What a process without RecBole is started with: an import of it fails, and nothing finds it."""


def without_recbole(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    blocked = folder / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(WITHOUT_RECBOLE)
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{blocked}{os.pathsep}{ROOT}"},
    )


@pytest.mark.parametrize("start", ["script", "checkout", "module"])
def test_without_recbole_the_program_says_one_sentence(start: str, tmp_path: Path) -> None:
    (tmp_path / "recbole-kd").write_text("import sys\nfrom recbole_kd.cli.program import main\nsys.exit(main())\n")
    command = {
        "script": [str(tmp_path / "recbole-kd")],
        "checkout": [str(ROOT / "run_recbole_kd.py")],
        "module": ["-m", "recbole_kd"],
    }[start]
    given = ["--model=MF", "--teacher=LightGCN", "--kd=RCEKD", "--dataset=ml-100k"]
    done = without_recbole([*command, *given], tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2 and line.startswith("error: recbole_kd is a plugin of RecBole")
    assert "pip install --no-deps recbole==1.2.1" in line


def test_without_recbole_a_name_that_needs_it_gets_an_import_error(tmp_path: Path) -> None:
    code = "import recbole_kd\ntry:\n    recbole_kd.run_recbole_kd\nexcept ImportError as error:\n    print(error)"
    done = without_recbole(["-c", code], tmp_path)
    assert done.returncode == 0 and "pip install --no-deps recbole==1.2.1" in done.stdout


NO_CACHE = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
from numba.core import caching
def nowhere(self):
    raise OSError("read-only")
for name in dir(caching):
    if name.strip("_") in ("InTreeCacheLocator", "UserWideCacheLocator"):
        getattr(caching, name).ensure_cache_path = nowhere
{more}
import torch
from recbole_kd.ops import compiled
found = compiled.is_in(torch.tensor([[1, 5]]), torch.tensor([[5, 7]]))  # of all kernels the one that compiles fastest
print("plain" if found is None else found.tolist())
"""


@pytest.mark.parametrize("writable", [True, False])
def test_kernels_without_a_cache_of_numba(writable: bool, tmp_path: Path) -> None:
    pytest.importorskip("numba")
    more = "" if writable else "import tempfile\ndef no(*a, **k):\n    raise OSError('no')\ntempfile.mkdtemp = no"
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = python("-c", NO_CACHE.format(more=more), cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("[[False, True]]" if writable else "plain")
    said = [line for line in done.stderr.splitlines() if "NUMBA_CACHE_DIR" in line]
    assert len(said) == 1 and list(tmp_path.glob("recbole-kd-numba-*")) == []


POSIX_ONLY = {"fcntl", "grp", "pwd", "resource", "termios"}


def test_nothing_that_windows_lacks_is_imported_with_a_module() -> None:
    """Such modules may be imported inside a function that answers an ImportError."""
    found = []
    for path in (ROOT / "recbole_kd").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            found += [(path.name, name) for name in names if name in POSIX_ONLY]
        assert "os.getuid" not in path.read_text(encoding="utf-8"), path
    assert found == []


def test_bounds_pins_and_documented_versions_agree() -> None:
    lowest_of = script("lowest_versions")
    lowest = dict(
        line.split("==") for line in map(lowest_of.lowest, lowest_of.requirements(["fast", "tune"])) if "==" in line
    )
    pins = dict(
        line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if re.match(r"\w.*==", line)
    )
    assert all(Version(pins[name]) >= Version(least) for name, least in lowest.items() if name in pins)
    page = (ROOT / "docs" / "install.md").read_text()
    documented = dict(re.findall(r"^\| ([\w[\]-]+) \| ([\d.]+) \|$", page, re.MULTILINE))
    assert len(documented) == 7 and documented == {name: lowest[name] for name in documented}


def test_lowest_versions_are_those_of_the_bounds() -> None:
    lowest = script("lowest_versions").lowest
    assert lowest("torch>=2.4.1") == "torch==2.4.1" and lowest("pandas >= 1.5.3, <3") == "pandas==1.5.3"
    assert lowest("ray[tune]>=2.6.3") == "ray[tune]==2.6.3" and lowest("setuptools<82") == "setuptools<82"
    with pytest.raises(SystemExit, match="not an extra"):
        script("lowest_versions").requirements(["all"])
