"""The table of a run: teacher, student alone and distilled student, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_kd.report.charts import Table


def run_table(result: Mapping[str, Any]) -> Table:
    """Return test metrics, size and speed of each teacher, the student alone and the distilled student.

    Args:
        result: content of result.json.
    """
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
    return Table(["", *(title for title, _ in columns)], rows)


def _human_bytes(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _metric(metrics: Mapping[str, float] | None, name: str) -> str:
    return f"{metrics[name]:.4f}" if metrics and name in metrics else "-"


def _count(value: int | None) -> str:
    """Format a number of parameters; zero or None means an unknown saved teacher."""
    return f"{value:,}" if value else "-"


def _micros(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
