"""The presentation of a result: the table on the screen and the versions in result.json."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from subprocess import DEVNULL, CalledProcessError, check_output
from typing import Any

import torch
from tabulate import tabulate

from recbole_kd.version import __version__


def versions(device: torch.device) -> dict[str, str]:
    """Return the versions that a result depends on, the commit of a checkout, and the device.

    The device is ``cpu`` or the name of a GPU.
    """
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found = {"python": platform.python_version(), "recbole_kd": __version__, "commit": _commit(), "device": on}
    for name in ("torch", "recbole", "numpy", "scipy", "ray"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return check_output(command, stderr=DEVNULL, text=True).strip()
    except (OSError, CalledProcessError):
        return "unknown"


def _human_bytes(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def result_table(result: Mapping[str, Any]) -> str:
    """Return a table of test metrics of teacher, plain student and distilled student."""
    kd = result["kd"]
    teachers = result["teacher"].get("members") or [{"model": result["teacher_model"], **result["teacher"]}]
    columns = [
        *((f"teacher {figures['model']}", figures) for figures in teachers),
        (f"{result['model']} alone", result["student"]),
        (f"assistant {result['model']}", result.get("assistant")),
        (f"{result['model']} + {kd}", result["distilled"]),
    ]
    columns = [(title, figures) for title, figures in columns if figures is not None]
    rows: list[list[str]] = []
    for metric in columns[-1][1]["test"]:
        rows.append([f"test {metric}", *(_metric(figures["test"], metric) for _, figures in columns)])
    rows.append(["parameters", *(_count(figures["parameters"]) for _, figures in columns)])
    rows.append(
        ["size of weights", *(_human_bytes(figures["bytes"]) if figures["bytes"] else "-" for _, figures in columns)]
    )
    rows.append(["inference, us per user", *(_micros(figures["inference_us_per_user"]) for _, figures in columns)])
    headers = ["", *(title for title, _ in columns)]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", *["right"] * len(columns)))


def closing_lines(result: Mapping[str, Any]) -> str:
    """Return the verdict, its warnings and the next command, for below the table.

    Args:
        result: content of result.json, with ``folder``.
    """
    found = result["verdict"]
    lines = [found["text"], *(f"warning: {warning['text']}" for warning in found["warnings"])]
    folder = Path(result["folder"])
    student = result["student_export"]["folder"]
    lines.append(f"result: {folder / 'result.json'}" + (f"   student: {folder / student}" if student else ""))
    if student:
        lines.append(f"next: recbole-kd recommend {folder} --k=10")
    return "\n".join(lines)


def _metric(metrics: Mapping[str, float] | None, name: str) -> str:
    return f"{metrics[name]:.4f}" if metrics and name in metrics else "-"


def _count(value: int | None) -> str:
    """Format a number of parameters; zero or None means an unknown saved teacher."""
    return f"{value:,}" if value else "-"


def _micros(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
