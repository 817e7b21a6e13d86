"""The report of ``--peers``: published code and ours, method by method, each in its own process."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_kd.errors import TrainingError
from recbole_kd.experiments.benchmarks.made_data import width_of, write_dataset, write_teacher
from recbole_kd.experiments.benchmarks.own_process import in_own_process
from recbole_kd.experiments.benchmarks.peer_settings import settings_of
from recbole_kd.experiments.benchmarks.reports import Cases
from recbole_kd.storage.files import write_text_whole

HEADERS = ["size", "method", "published, s", "ours, s", "ratio", "published, CPU s", "ours, CPU s", "CPU ratio"]


def report_peers(folder: Path, wanted: Cases, minutes: float | None, output: Path | None, steps: int = 0) -> None:
    """Time methods of published code and ours, print a table, and write the rows as JSON.

    Args:
        folder: folder of the published code, which is run.
        wanted: methods and sizes; its options replace published settings on both sides.
        minutes: limit of a method's process.
        output: gets the rows after each method.
        steps: if not 0, epochs are scaled from so many steps (:func:`.published_code.time_beside`).
    """
    rows: list[dict[str, Any]] = []
    scaled = {"scaled_from_steps": steps} if steps else {}
    for size in wanted.sizes:
        teacher_width = width_of(size, wanted.teacher_width)
        with tempfile.TemporaryDirectory() as made:
            write_teacher(write_dataset(size, Path(made)), teacher_width)
            for kd in wanted.methods:
                options = settings_of(kd, wanted.options)
                case = {"model": "MF", "kd": kd, "size": size, "width": wanted.width, "options": options}
                found = _measured(folder, {**case, "folder": made}, wanted.repeats, minutes, steps)
                rows.append({**case, "teacher_width": teacher_width, "cores": os.cpu_count(), **found, **scaled})
                print(_line(rows[-1]), flush=True)
                if output:  # written after each method, so that a later failure loses nothing
                    write_text_whole(output, json.dumps(rows, indent=2))
    print("", tabulate([cells(row) for row in rows], headers=headers(steps), floatfmt=".2f"), sep="\n")


def headers(steps: int) -> list[str]:
    """Return the headers of the table; those of seconds say if they are scaled from steps."""
    return [name + f" (scaled from {steps} steps)" if steps and name.endswith(" s") else name for name in HEADERS]


def _measured(folder: Path, case: Mapping[str, Any], repeats: int, minutes: float | None, steps: int) -> dict[str, Any]:
    """Return the seconds of both sides, or the error of the process that should have measured them."""
    job = {"what": "peers", "peers": str(folder.resolve()), "case": dict(case), "repeats": repeats, "steps": steps}
    try:
        found: dict[str, Any] = in_own_process(job, minutes)
    except TrainingError as error:
        return {"error": str(error)}
    return found


def cells(row: Mapping[str, Any]) -> list[Any]:
    """Return a row of the table: seconds of both sides and their ratio, on the wall and of the CPU."""
    line: list[Any] = [row["size"], row["kd"]]
    for kind in ("seconds", "cpu_seconds"):
        published, ours = (row.get(f"{side}_{kind}_per_epoch") for side in ("published", "our"))
        line += [published, ours, published / ours if published and ours else None]
    return line


def _line(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"{row['kd']}: not compared, {row['error']}"
    return f"{row['kd']}: timed with {row['threads']} threads, teacher {row['teacher_width']}, student {row['width']}"
