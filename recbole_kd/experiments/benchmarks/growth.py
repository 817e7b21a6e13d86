"""Growth of an RCE-KD epoch with each size, with fitted power laws, as Markdown."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_kd.distiller.rcekd_sets import QUERIES_PER_DRAW
from recbole_kd.experiments.benchmarks.made_data import write_dataset, write_teacher
from recbole_kd.experiments.benchmarks.own_process import in_own_process
from recbole_kd.experiments.benchmarks.rows import measured
from recbole_kd.storage.files import write_json

BASE: Mapping[str, int] = {"users": 5000, "items": 20_000, "interactions": 100_000, "K": 50, "L": 50, "d": 20}
AXES: Mapping[str, Sequence[int]] = {
    "users": (5000, 10_000, 20_000, 40_000),
    "items": (10_000, 20_000, 40_000, 80_000),
    "interactions": (50_000, 100_000, 200_000, 400_000),
    "K": (25, 50, 100, 200),
    "L": (25, 50, 100, 200),
    "d": (10, 20, 40, 80),
}
CANDIDATES = 200
DEVICE_GB = 24
TEACHER_WIDTH = 64
REFRESH = ("topk_refresh", "sampling", "teacher_scores")
MEASURES: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "epoch, s": lambda row: row["seconds_per_epoch"],
    "top-k, s": lambda row: row["phases"]["topk_refresh"],
    "refresh, s": lambda row: sum(row["phases"][name] for name in REFRESH),
    "steps, s": lambda row: sum(
        seconds for name, seconds in row["phases"].items() if name not in (*REFRESH, "evaluation")
    ),
    "peak, MiB": lambda row: row["peak_rss_mb"],
}
"""Column -> its value in a row of the benchmark. ``refresh`` is top-k, sampling and teacher scores together."""

Measure = Callable[[Mapping[str, int]], Mapping[str, Any]]


def points(axes: Mapping[str, Sequence[int]], base: Mapping[str, int]) -> list[tuple[str, dict[str, int]]]:
    """Return (axis, sizes) of each measurement. The base is a point of every axis."""
    return [(axis, {**base, axis: value}) for axis, values in axes.items() for value in values]


def measure_all(
    measure: Measure, axes: Mapping[str, Sequence[int]] = AXES, base: Mapping[str, int] = BASE
) -> list[tuple[str, int, dict[str, float]]]:
    """Return (axis, value, metrics) of each measurement. Equal sizes are measured once."""
    known: dict[tuple[int, ...], Mapping[str, Any]] = {}
    found = []
    for axis, sizes in points(axes, base):
        key = tuple(sizes.values())
        if key not in known:
            known[key] = measure(sizes)
        found.append((axis, sizes[axis], {name: figure(known[key]) for name, figure in MEASURES.items()}))
    return found


def exponent(values: Sequence[float], seconds: Sequence[float]) -> float:
    """Return p of the least-squares fit seconds = a value^p, in logarithms."""
    x, y = [math.log(v) for v in values], [math.log(s) for s in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def slope(values: Sequence[float], figures: Sequence[float]) -> float:
    """Return the least-squares increase of a metric per unit of the value."""
    mean_x, mean_y = sum(values) / len(values), sum(figures) / len(figures)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(values, figures, strict=True))
    return above / sum((a - mean_x) ** 2 for a in values)


def markdown(found: Sequence[tuple[str, int, Mapping[str, float]]]) -> str:
    """Return two Markdown tables: the measurements and their fits."""
    names = list(MEASURES)
    lines = [_row(["varied", "value", *names]), _row(["---"] * (2 + len(names)))]
    lines += [_row([axis, f"{value:,}", *(f"{figures[name]:.2f}" for name in names)]) for axis, value, figures in found]
    seconds = [name for name in names if name.endswith(", s")]
    lines += [
        "",
        _row(["grows with", *(f"{name.removesuffix(', s')} ~ x^p" for name in seconds), "peak, bytes for one more"]),
    ]
    lines.append(_row(["---"] * (2 + len(seconds))))
    for axis in dict.fromkeys(axis for axis, _, _ in found):
        own = [(value, figures) for name, value, figures in found if name == axis]
        values = [float(value) for value, _ in own]
        powers = [f"{exponent(values, [figures[name] for _, figures in own]):.2f}" for name in seconds]
        lines.append(
            _row([axis, *powers, f"{slope(values, [figures['peak, MiB'] for _, figures in own]) * 2**20:,.0f}"])
        )
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# -- memory by arithmetic -----------------------------------------------------------------------------------------


def bytes_needed(
    users: int, items: int, k: int = 50, samples: int = 50, candidates: int = 200, d: int = 20, teacher: int = 64
) -> dict[str, int]:
    """Return the bytes of an RCE-KD training of MF by purpose.

    Ids of the item sets have 4 bytes, those of the teacher's list 8, numbers 4 and marks 1. Lists are kept for all
    users. The lists that they are drawn from exist for one block of users at a time.
    """
    listed = 2 * k + samples
    return {
        "student, its gradients, Adam's moments": 4 * 4 * d * (users + items),
        "teacher's vectors": 4 * teacher * (users + items),
        "item sets: ids, marks; the teacher's list once more": (4 + 1) * listed * users + 8 * k * users,
        "teacher's scores of them": 4 * listed * users,
        "the teacher's softmax": 4 * listed * users,
        "a block's ranked lists and draw (six tables)": (8 + 5 * 4) * candidates * min(users, QUERIES_PER_DRAW),
    }


def largest(memory: float, **sizes: int) -> int:
    """Return the largest number of users and items that fits into so many bytes.

    There are as many items as users. See :func:`bytes_needed`.
    """
    low, high = 1, 2**40
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if sum(bytes_needed(middle, middle, **sizes).values()) <= memory else (low, middle - 1)
        )
    return low


def arithmetic(gigabytes: int, **sizes: int) -> str:
    """Return the largest problem for a device's memory, as Markdown."""
    n = largest(gigabytes * 10**9, **sizes)
    parts = bytes_needed(n, n, **sizes)
    lines = [_row(["what", f"GB at {n:,} users and items"]), _row(["---", "---"])]
    lines += [_row([name, f"{size / 1e9:.2f}"]) for name, size in parts.items()]
    return "\n".join([*lines, _row(["together", f"{sum(parts.values()) / 1e9:.2f} of {gigabytes}"])])


def report_growth(repeats: int, teacher_width: int | None, output: Path | None, options: Mapping[str, Any]) -> None:
    """Measure, print the Markdown and write the metrics.

    Args:
        repeats: timed epochs of each point.
        teacher_width: width of the teacher. If None, :data:`TEACHER_WIDTH`.
        output: gets the metrics as JSON.
        options: options of the method.
    """
    machine = in_own_process({"what": "machine"})
    with tempfile.TemporaryDirectory() as folder:

        def measure(sizes: Mapping[str, int]) -> Mapping[str, Any]:
            size = "x".join(str(sizes[name]) for name in ("users", "items", "interactions"))
            made = write_dataset(size, Path(folder))
            write_teacher(made, teacher_width or TEACHER_WIDTH)
            method = {"kd_k": sizes["K"], "kd_n_samples": sizes["L"], "kd_candidates": CANDIDATES, **options}
            case = {
                "model": "MF",
                "kd": "RCEKD",
                "size": size,
                "folder": folder,
                "width": sizes["d"],
                "options": method,
            }
            return measured(case, max(1, repeats), machine, False)

        found = measure_all(measure)
    print(f"{markdown(found)}\n\n{arithmetic(DEVICE_GB)}")
    if output:
        rows = [{"axis": axis, "value": value, **figures} for axis, value, figures in found]
        write_json(output, {"base": dict(BASE), "machine": machine, "rows": rows})
