"""The reports of the benchmark: a table of cases, and sequential models."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from recbole_kd.experiments.benchmarks.made_data import width_of, write_dataset, write_teacher
from recbole_kd.experiments.benchmarks.own_process import in_own_process
from recbole_kd.experiments.benchmarks.rows import measured, phase_table
from recbole_kd.storage.files import write_json


@dataclass(frozen=True)
class Cases:
    """Every model with every method at every size.

    Attributes:
        models, methods, sizes: what is combined.
        width: width of the students' vectors.
        teacher_width: width of the teacher's vectors. If None, the default of the size.
        repeats: timed epochs.
        evaluation: also time RecBole's evaluation.
        options: RecBole's and ``kd_*`` keys of the KD runs.
    """

    models: Sequence[str]
    methods: Sequence[str]
    sizes: Sequence[str]
    width: int
    teacher_width: int | None
    repeats: int
    evaluation: bool
    options: Mapping[str, Any]


def rows_of(wanted: Cases, folder: str) -> Iterator[dict[str, Any]]:
    """Measure every case, size by size."""
    machine = in_own_process({"what": "machine"})
    for size in wanted.sizes:
        made = write_dataset(size, Path(folder))
        write_teacher(made, width_of(size, wanted.teacher_width))
        for model in wanted.models:
            for kd in wanted.methods:
                case = {
                    "model": model,
                    "kd": kd,
                    "size": size,
                    "folder": folder,
                    "width": wanted.width,
                    "options": wanted.options,
                }
                yield measured(case, wanted.repeats, machine, wanted.evaluation)


def report_sequences(sizes: Sequence[str], repeats: int, output: Path | None) -> None:
    """Time HSTU and SASRec, plain and distilled, on synthetic data of each size, and print it."""
    with tempfile.TemporaryDirectory() as folder:
        write_dataset("small", Path(folder), whole=True)
        for size in sizes:
            write_dataset(size, Path(folder), whole=True)
            found = in_own_process({"what": "sequences", "size": size, "folder": folder, "repeats": repeats})
            print("\n".join(f"{size:<10} {name:<28} {value:10.2f}" for name, value in found.items()))
            if output:
                write_json(output, {"size": size, "cores": os.cpu_count(), **found})


def report_cases(wanted: Cases, output: Path | None) -> None:
    """Measure the cases, print a table of each and one of all, and write the rows as JSON."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows_of(wanted, folder):
            rows.append(row)
            print(phase_table(row), end="\n\n", flush=True)
            if output:  # written after each case, so that a later failure loses nothing
                output.write_text(json.dumps(rows, indent=2))
    shown = [{key: value for key, value in row.items() if not isinstance(value, dict)} for row in rows]
    print(tabulate(shown, headers="keys", floatfmt=".2f"))
