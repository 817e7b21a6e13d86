"""Seconds per epoch and peak memory of distillation beside RecBole's own training, on data made to a public data set's counts.

python scripts/benchmark.py --model=MF --kd=RCEKD --size=citeulike --output=bench.json
python scripts/benchmark.py --size=1e6x1e6x1e6 --repeats=0 --kd_candidate_index=ivf --output=large.json
python scripts/benchmark.py --growth --output=growth.json

Plain is RecBole's unmodified Trainer, BPR and dataloader at the same width. Both are timed in one process, epoch by epoch in turn; a KD
epoch runs from begin_epoch to the last step, evaluation excluded. Peak memory is that of two further processes, one evaluation included.
With --repeats=0 a case is one first epoch and an evaluation, plain and KD in a process of their own each, whose times and peaks those are.
Beside each phase stands its floor on this machine (benchmark_floor.py). Lists are written with commas; other --KEY=VALUE are the KD run's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT.parent), str(ROOT)]

from benchmark_data import SIZES, width_of, write_dataset, write_teacher  # noqa: E402
from benchmark_floor import Machine, Work, floors  # noqa: E402


def in_own_process(job: Mapping[str, Any]) -> Any:
    """Run one job of this script in a fresh process and read its JSON answer."""
    command = [sys.executable, str(Path(__file__).resolve()), "--job", json.dumps(job)]
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_job(job: dict[str, Any]) -> Any:
    """What a process of its own answers."""
    what = job.pop("what")
    if what == "sequences":
        from benchmark_sequences import time_sequences

        return time_sequences(f"made-{job['size']}", "made-small", Path(job["folder"]), job["repeats"])
    import benchmark_cases as cases

    if what == "machine":
        return cases.machine_rates()
    if what == "evaluation":
        return cases.evaluation_seconds(job["size"], job["folder"])
    repeats = job.pop("repeats", 0)
    case = cases.Case(**job)
    if what == "together":
        return cases.time_together(case, repeats)
    return {"once": cases.once, "memory": cases.memory_of}[what](case.plain() if case.kd is None else case)


def measured(case: Mapping[str, Any], repeats: int, machine: Mapping[str, Any], evaluation: bool) -> dict[str, Any]:
    """The row of a case."""
    plain = {**case, "kd": None, "options": {}}
    if repeats:
        row = in_own_process({**case, "what": "together", "repeats": repeats})
        row["peak_rss_mb"] = in_own_process({**case, "what": "memory"})
        row["plain_peak_rss_mb"] = in_own_process({**plain, "what": "memory"})
    else:
        row = in_own_process({**case, "what": "once"})
        row |= {f"plain_{name}": value for name, value in in_own_process({**plain, "what": "once"}).items() if name != "work"}
    if evaluation:
        row |= in_own_process({"what": "evaluation", "size": case["size"], "folder": case["folder"]})
    rates = Machine(machine["bandwidth"], machine["rate"])
    row["floors"] = floors(Work(**row["work"]), rates)
    of_epoch = [name for name in row["phases"] if name in row["floors"] and name != "evaluation"]
    row["floor_seconds_per_epoch"] = sum(row["floors"][name]["seconds"] for name in of_epoch)
    seconds = row["seconds_per_epoch"]
    first = {
        "model": case["model"], "kd": case["kd"], "size": case["size"], "seconds_per_epoch": seconds,
        "plain_seconds_per_epoch": row["plain_seconds_per_epoch"], "ratio_to_plain": seconds / row["plain_seconds_per_epoch"],
        "ratio_to_floor": seconds / row["floor_seconds_per_epoch"],
    }  # fmt: skip
    return {**first, **row, "options": case["options"], "machine": dict(machine), "cores": os.cpu_count()}


def phase_table(row: Mapping[str, Any]) -> str:
    """Seconds of each phase, plain and KD, beside its floor."""
    from tabulate import tabulate

    lines = []
    for name in dict.fromkeys([*row["phases"], *row["plain_phases"]]):
        seconds, floor = row["phases"].get(name), row["floors"].get(name)
        times = seconds / floor["seconds"] if seconds is not None and floor and floor["seconds"] else None
        lines.append([name, row["plain_phases"].get(name), seconds, *((floor["seconds"], times, floor["bound_by"]) if floor else ())])
    headers = [f"{row['model']} {row['kd']} {row['size']}", "plain", "KD", "floor", "KD / floor", "bound by"]
    return tabulate(lines, headers=headers, floatfmt=".3f")


def parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="MF", help="student, or several with commas")
    parser.add_argument("--kd", default="RCEKD", help="method, several with commas, or all")
    parser.add_argument("--size", default="citeulike", help=f"of {', '.join(SIZES)}, USERSxITEMSxINTERACTIONS, or several with commas")
    parser.add_argument("--width", type=int, default=20, help="of the students' vectors")
    parser.add_argument("--teacher_width", type=int, help="of the teacher's vectors, on disk: 400, for gowalla 2000, for large sizes 64")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--evaluation", action="store_true", help="also time full-ranking evaluation beside RecBole's default batch size")
    parser.add_argument("--sequences", action="store_true", help="time HSTU and SASRec, plain and distilled, in place of --model, --kd")
    parser.add_argument("--growth", action="store_true", help="how cost grows with users, items, interactions, K, L and d, as Markdown")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    known, rest = parser.parse_known_args(argv)
    from recbole_kd.config.parsing import parse_arguments
    from recbole_kd.errors import TargetError
    from recbole_kd.storage.targets import check_file

    try:
        if known.output:
            check_file(known.output, option="--output")
    except TargetError as error:
        parser.error(str(error))
    return known, parse_arguments(rest)


def methods(words: str) -> list[str]:
    """The named methods."""
    from recbole_kd.distiller.registry import DISTILLERS

    return list(DISTILLERS) if words == "all" else words.split(",")


def rows_of(arguments: argparse.Namespace, options: dict[str, Any], folder: str) -> Iterator[dict[str, Any]]:
    """Every case, size by size."""
    machine = in_own_process({"what": "machine"})
    for size in arguments.size.split(","):
        made = write_dataset(size, Path(folder))
        write_teacher(made, width_of(size, arguments.teacher_width))
        for model in arguments.model.split(","):
            for kd in methods(arguments.kd):
                case = {"model": model, "kd": kd, "size": size, "folder": folder, "width": arguments.width, "options": options}
                yield measured(case, arguments.repeats, machine, arguments.evaluation)


def report_sequences(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_dataset("small", Path(folder), whole=True)
        for size in arguments.size.split(","):
            write_dataset(size, Path(folder), whole=True)
            found = in_own_process({"what": "sequences", "size": size, "folder": folder, "repeats": arguments.repeats})
            print("\n".join(f"{size:<10} {name:<28} {value:10.2f}" for name, value in found.items()))
            if arguments.output:
                arguments.output.write_text(json.dumps({"size": size, "cores": os.cpu_count(), **found}, indent=2))


def report_cases(arguments: argparse.Namespace, options: dict[str, Any]) -> None:
    from tabulate import tabulate

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows_of(arguments, options, folder):
            rows.append(row)
            print(phase_table(row), end="\n\n", flush=True)
            if arguments.output:  # what is measured is kept, also if a later case fails
                arguments.output.write_text(json.dumps(rows, indent=2))
    shown = [{key: value for key, value in row.items() if not isinstance(value, dict)} for row in rows]
    print(tabulate(shown, headers="keys", floatfmt=".2f"))


def main() -> None:
    arguments, options = parse(sys.argv[1:])
    if arguments.job:
        print(json.dumps(run_job(json.loads(arguments.job))))
    elif arguments.sequences:
        report_sequences(arguments)
    elif arguments.growth:
        from benchmark_growth import report_growth

        report_growth(arguments, options)
    else:
        report_cases(arguments, options)


if __name__ == "__main__":
    main()
