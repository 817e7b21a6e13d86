"""The presentation of a result: the table on the screen and the versions in result.json."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from subprocess import DEVNULL, CalledProcessError, check_output
from typing import Any

import torch
from tabulate import tabulate

from recbole_kd.report.run_table import run_table
from recbole_kd.report.write import REPORT
from recbole_kd.version import __version__


def versions(device: torch.device) -> dict[str, str]:
    """Return the versions that a result depends on, the commit of a checkout, and the device.

    The device is ``cpu`` or the name of a GPU.
    """
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found = {"python": platform.python_version(), "recbole_kd": __version__, "commit": _commit(), "device": on}
    return found | {name: _installed(name) for name in ("torch", "recbole", "numpy", "scipy", "ray")}


@cache
def _installed(name: str) -> str:
    """Return the version of a package, or ``unknown``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


@cache
def _commit() -> str:
    """Return the commit of the code that this process runs, asked at its first run."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return check_output(command, stderr=DEVNULL, text=True).strip()
    except (OSError, CalledProcessError):
        return "unknown"


def result_table(result: Mapping[str, Any]) -> str:
    """Return a table of test metrics of teacher, plain student and distilled student."""
    table = run_table(result)
    align = ("left", *["right"] * (len(table.headers) - 1))
    return tabulate(table.rows, headers=table.headers, disable_numparse=True, colalign=align)


def closing_lines(result: Mapping[str, Any]) -> str:
    """Return the verdict, its warnings and the next command, for below the table.

    Args:
        result: content of result.json, with ``folder``.
    """
    found = result["verdict"]
    lines = [found["text"], *(f"warning: {warning['text']}" for warning in found["warnings"])]
    folder = Path(result["folder"])
    student = result["student_export"]["folder"]
    report = f"   report: {folder / REPORT}" if (folder / REPORT).is_file() else ""
    lines.append(f"result: {folder / 'result.json'}{report}" + (f"   student: {folder / student}" if student else ""))
    if student:
        lines.append(f"next: recbole-kd recommend {folder} --k=10 --out=recs.csv")
    return "\n".join(lines)
