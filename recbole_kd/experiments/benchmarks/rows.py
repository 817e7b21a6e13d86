"""The row of a case, measured in separate processes, and its table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from recbole_kd.experiments.benchmarks.floors import Machine, Work, floors
from recbole_kd.experiments.benchmarks.own_process import in_own_process


def measured(case: Mapping[str, Any], repeats: int, machine: Mapping[str, Any], evaluation: bool) -> dict[str, Any]:
    """Return the row of a case: time and memory by phase, plain and KD, and the floors.

    Args:
        case: keywords of :class:`recbole_kd.experiments.benchmarks.cases.Case`.
        repeats: timed epochs. 0 times one first epoch and an evaluation, in a process each.
        machine: its measured rates.
        evaluation: also time RecBole's evaluation.
    """
    plain = {**case, "kd": None, "options": {}}
    if repeats:
        row = in_own_process({**case, "what": "together", "repeats": repeats})
        row["peak_rss_mb"] = in_own_process({**case, "what": "memory"})
        row["plain_peak_rss_mb"] = in_own_process({**plain, "what": "memory"})
    else:
        row = in_own_process({**case, "what": "once"})
        row |= {
            f"plain_{name}": value
            for name, value in in_own_process({**plain, "what": "once"}).items()
            if name != "work"
        }
    if evaluation:
        row |= in_own_process({"what": "evaluation", "size": case["size"], "folder": case["folder"]})
    rates = Machine(machine["bandwidth"], machine["rate"])
    row["floors"] = floors(Work(**row["work"]), rates)
    of_epoch = [name for name in row["phases"] if name in row["floors"] and name != "evaluation"]
    row["floor_seconds_per_epoch"] = sum(row["floors"][name]["seconds"] for name in of_epoch)
    seconds = row["seconds_per_epoch"]
    first = {
        "model": case["model"], "kd": case["kd"], "size": case["size"], "seconds_per_epoch": seconds,
        "plain_seconds_per_epoch": row["plain_seconds_per_epoch"],
        "ratio_to_plain": seconds / row["plain_seconds_per_epoch"],
        "ratio_to_floor": seconds / row["floor_seconds_per_epoch"],
    }  # fmt: skip
    return {**first, **row, "options": case["options"], "machine": dict(machine), "cores": os.cpu_count()}


def phase_table(row: Mapping[str, Any]) -> str:
    """Return a table of the seconds of each phase, plain and KD, with its floor."""
    lines = []
    for name in dict.fromkeys([*row["phases"], *row["plain_phases"]]):
        seconds, floor = row["phases"].get(name), row["floors"].get(name)
        times = seconds / floor["seconds"] if seconds is not None and floor and floor["seconds"] else None
        lines.append(
            [
                name,
                row["plain_phases"].get(name),
                seconds,
                *((floor["seconds"], times, floor["bound_by"]) if floor else ()),
            ]
        )
    headers = [f"{row['model']} {row['kd']} {row['size']}", "plain", "KD", "floor", "KD / floor", "bound by"]
    return tabulate(lines, headers=headers, floatfmt=".3f")
