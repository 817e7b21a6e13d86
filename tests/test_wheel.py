"""A wheel built from the repository and installed elsewhere finds its property files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's content, away from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    source = folder / "source"
    subprocess.run(["cp", "-r", "--", str(ROOT / "recbole_kd"), str(ROOT / "properties"), str(_made(source))], check=True)
    subprocess.run(
        ["cp", "--", *(str(ROOT / name) for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE")), str(source)], check=True
    )
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder / "dist"), str(source)], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_all_property_files_are_packed(installed: Path) -> None:
    packed = {
        path.relative_to(installed / "recbole_kd" / "properties") for path in (installed / "recbole_kd" / "properties").rglob("*.yaml")
    }
    assert packed == {path.relative_to(ROOT / "properties") for path in (ROOT / "properties").rglob("*.yaml")}
    assert len(packed) >= 10


def test_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    code = (
        "import recbole_kd; from recbole_kd.config.property_dir import properties_dir; from recbole.config import Config; "
        "print(recbole_kd.__file__); print(properties_dir()); print(Config(model='MF', dataset='ml-100k')['init_std'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    module, properties, init_std = done.stdout.strip().splitlines()[-3:]
    assert Path(module).is_relative_to(installed) and Path(properties).is_relative_to(installed)
    assert float(init_std) == 0.01
