"""A checklist of a device: epochs of every method beside plain ones, within a time limit."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from tabulate import tabulate

from recbole_kd.errors import ConfigError
from recbole_kd.evaluation.efficiency import peak_rss_mb
from recbole_kd.experiments.benchmarks.cases import Case, build
from recbole_kd.experiments.benchmarks.made_data import width_of, write_dataset, write_teacher
from recbole_kd.experiments.benchmarks.reports import Cases
from recbole_kd.storage.files import write_json

MEASURED, LATE, FAILED = "measured", "out of time", "failed"
"""States of a method."""

COLUMNS = ("kd", "state", "plain_seconds_per_epoch", "seconds_per_epoch", "ratio_to_plain", "peak_mb", "why")


class _LateError(Exception):
    """An exception that leaves a method's epoch when its share of the time is spent."""


def check_available(device: str) -> None:
    """Refuse a device that torch does not see (ConfigError)."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device=cuda is not possible, because torch sees no GPU here: install a torch for CUDA and its driver, "
            "or take --device=cpu"
        )


def describe(device: str) -> dict[str, Any]:
    """Return the names of the device and of the software below it."""
    found: dict[str, Any] = {"device": device, "torch": torch.__version__, "python": platform.python_version()}
    if device != "cuda":
        return {**found, "name": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    ask = [shutil.which("nvidia-smi") or "", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(ask, capture_output=True, text=True).stdout.split() if ask[0] else []
    own = torch.cuda.get_device_properties(0)
    memory = {"name": own.name, "memory_mb": own.total_memory // 2**20}
    return {**found, **memory, "cuda": torch.version.cuda, "driver": answer[0] if answer else None}


def timed_epoch(trainer: Any, loaders: Any, epoch: int, deadline: float) -> float:
    """Return the seconds of an epoch.

    Raises:
        _LateError: the deadline, in seconds of :func:`time.perf_counter`, passed during it.
    """

    def stop_if_late(*_: Any) -> None:
        if perf_counter() > deadline:
            raise _LateError

    hook = trainer.optimizer.register_step_pre_hook(stop_if_late)
    try:
        _wait(trainer.device)
        started = perf_counter()
        trainer._train_epoch(loaders.train, epoch)
        _wait(trainer.device)
        return perf_counter() - started
    finally:
        hook.remove()


def _wait(device: torch.device) -> None:
    """Wait for the work that is queued on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_mb(device: str, reset: bool = False) -> float:
    """Return the peak MiB since the last reset; on a CPU that of the whole process."""
    if device != "cuda":
        return peak_rss_mb()
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated() / 2**20


def check_method(case: Case, plain: tuple[Any, Any], device: str, repeats: int, deadline: float) -> dict[str, Any]:
    """Return the row of a method: epochs in turn with plain ones after a first epoch of both.

    An error of the method is part of the row, so that the next method is measured.
    """
    _peak_mb(device, reset=True)
    times: tuple[list[float], list[float]] = ([], [])
    row: dict[str, Any] = {"kd": case.kd, "state": MEASURED}
    try:
        pairs = plain, build(case)
        for epoch in range(repeats + 1):
            for (trainer, loaders), seconds in zip(pairs, times, strict=True):
                seconds.append(timed_epoch(trainer, loaders, epoch, deadline))
    except _LateError:
        row |= {"state": LATE, "why": "longer than its share of --minutes"}
    except Exception as error:  # whatever it is, it is what this checklist is to find
        return row | {"state": FAILED, "why": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    finished = [seconds[1:] or seconds for seconds in times]
    if all(finished):
        own, beside = median(finished[1]), median(finished[0])
        row |= {"plain_seconds_per_epoch": beside, "seconds_per_epoch": own, "ratio_to_plain": own / beside}
        row |= {"state": MEASURED, "why": None if len(times[1]) == repeats + 1 else f"{len(times[1])} epochs"}
    return row | {"peak_mb": _peak_mb(device)}


def check_device(device: str, wanted: Cases, minutes: float, output: Path | None) -> bool:
    """Measure methods on MF, print a table and the software, and return whether none failed.

    Args:
        device: ``cpu`` or ``cuda``.
        wanted: methods, one size, widths, timed epochs and options.
        minutes: limit of the whole. Each method has an equal share of what is left.
        output: gets the rows as JSON, after each method.

    Raises:
        ConfigError: torch does not see the device.
    """
    check_available(device)
    end, (size,) = perf_counter() + 60 * minutes, wanted.sizes
    about = {**describe(device), "size": size, "width": wanted.width}
    print("\n".join(f"{name}: {value}" for name, value in about.items()), flush=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_teacher(write_dataset(size, Path(folder)), width_of(size, wanted.teacher_width))
        given = {**wanted.options, "use_gpu": device == "cuda"}
        own = {key: value for key, value in given.items() if not key.startswith("kd_")}
        plain = build(Case("BPR", None, size, folder, wanted.width, own))
        for number, kd in enumerate(wanted.methods):
            now = perf_counter()
            share = (end - now) / (len(wanted.methods) - number)
            case = Case("MF", kd, size, folder, wanted.width, given)
            rows.append(check_method(case, plain, device, wanted.repeats, now + share))
            print(f"{kd}: {rows[-1]['state']}", flush=True)
            if output is not None:
                write_json(output, {**about, "rows": rows})
    print(tabulate([[row.get(name) for name in COLUMNS] for row in rows], headers=COLUMNS, floatfmt=".3f"))
    return all(row["state"] != FAILED for row in rows)
