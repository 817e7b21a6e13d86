"""The runner of a grid, one process at a time or on Ray, which skips finished runs."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from recbole_kd.config.schema import DEFAULT_WEIGHT
from recbole_kd.distributed.children import deaf_to_interrupts, fresh_processes
from recbole_kd.distributed.ray_cluster import connect, own_devices
from recbole_kd.distributed.ray_probe import check_room
from recbole_kd.errors import ConfigError, KDError
from recbole_kd.experiments.grid import DISTILLED, STUDENT, Grid, Task
from recbole_kd.storage.files import write_json
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.targets import check_file

LOCAL = ("data_path", "cache_dir", "output_dir", "show_progress", "resume", "state", "download")
"""Keys that say where and how a run happens, not what it is. No result contains them."""

ANY_METHOD = {"kd": "CE", "kd_k": 1}
"""Method in a request for the student alone: it accepts all students, teachers and catalogues, and has no effect."""

RETRIES = 3
"""Retries of a task whose worker or node was lost."""

SIGNIFICANT = 6
"""Significant digits of the metrics of each epoch, because results are committed."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task: ``done``, ``skipped``, or ``failed`` with its message."""

    task: Task
    state: str
    words: str = ""


def run_task(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run one task in this process, which may be a Ray worker."""
    from recbole_kd.config.merging import merge_sources
    from recbole_kd.pipeline.quick_start import run_request
    from recbole_kd.pipeline.request import make_request

    values = merge_sources(None, {"resume": True, "show_progress": False, "kd_weight": DEFAULT_WEIGHT}, settings)
    return run_request(make_request(values), writes_report=False)


def run_student(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train the student alone in this process, or take it from the cache."""
    from recbole_kd.config.merging import merge_sources
    from recbole_kd.config.request_names import teacher_names
    from recbole_kd.pipeline.quick_start import train_student_alone
    from recbole_kd.pipeline.request import make_request

    values = merge_sources(None, {"resume": True, "show_progress": False, **ANY_METHOD}, settings)
    values["teacher"] = (teacher_names(values.get("teacher")) or "").partition(",")[0] or None
    return train_student_alone(make_request(values))


JOBS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {DISTILLED: run_task, STUDENT: run_student}
"""What runs a task, by its stage."""


def run_grid(
    grid: Grid,
    results: Path,
    local: Mapping[str, Any],
    *,
    command: str,
    ray_address: str | None = None,
    resources: Mapping[str, float] | None = None,
    log: Path | None = None,
) -> Iterator[Outcome]:
    """Run the unfinished tasks of a grid and write each result when its task finishes.

    The file is ``results/GRID/RUN-seedN.json``, with the grid that the task belongs to.

    Args:
        grid: the grid.
        results: folder of the results.
        local: keys of LOCAL for every run.
        command: the command line, which each result contains.
        ray_address: address of a cluster.
        resources: ``cpu`` and ``gpu`` of a task on the cluster, fractions allowed.
        log: file for what the processes of this machine print; None: the screen.

    Raises:
        ConfigError: a result was made with other settings.
        TargetError: the path of a result is a link or folder.
    """
    waiting = []
    for task in grid.tasks:
        if _is_done(task, results / task.grid / task.file_name):
            yield Outcome(task, "skipped")
        else:
            waiting.append(task)
    run = (
        _on_ray(ray_address, resources or {}) if ray_address else partial(_one_by_one, log=log) if log else _one_by_one
    )
    for task, result, error in run([(task, {**task.settings, **local}) for task in waiting]):
        if result is None:
            yield Outcome(task, "failed", error)
            continue
        write_json(results / task.grid / task.file_name, _record(task, result, command))
        yield Outcome(task, "done")


def read_results(grid: Grid, results: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the finished results of a grid by (run, seed).

    Raises:
        ConfigError: a result was made with other settings.
    """
    found = {}
    for task in grid.tasks:
        path = results / task.grid / task.file_name
        if _is_done(task, path):
            found[task.run, task.seed] = checked_result(path, task.stage)
    return found


def checked_result(path: Path, stage: str = DISTILLED) -> dict[str, Any]:
    """Return a saved result.

    Args:
        path: file of the result.
        stage: stage of its task, see :class:`Task`.

    Raises:
        ConfigError: it lacks the metrics of a run.
    """
    try:
        result: dict[str, Any] = read_json(path)
        check_result(result, stage)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise not_a_result(path, error) from None
    return result


def not_a_result(path: Path, error: Exception) -> ConfigError:
    """Return the error about a file that should be a result and is not."""
    return ConfigError(f"{path} is not a result of a run ({error}): delete it, and the run is run again")


def check_result(result: Mapping[str, Any], stage: str = DISTILLED) -> None:
    """Check that a result has the metrics of its stages.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it has not.
    """
    if stage == STUDENT:
        _check_figures(result, (STUDENT,))
    else:
        _check_figures(result, ("teacher", *([] if result[STUDENT] is None else [STUDENT]), DISTILLED))
    if not isinstance(result[stage].get("history", {}), dict) or not isinstance(result["versions"], dict):
        raise ValueError("history or versions is not a mapping")


def _check_figures(result: Mapping[str, Any], stages: Iterable[str]) -> None:
    """Check that the metrics of these stages are numbers; raise ValueError if they are not."""
    for stage in stages:
        for phase in ("valid", "test"):
            unknown = stage == "teacher" and result[stage][phase] is None  # of several, or one that reads histories
            values = () if unknown else result[stage][phase].values()
            if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
                raise ValueError(f"{stage}.{phase} holds something other than numbers")


Finished = Iterator[tuple[Task, dict[str, Any] | None, str]]


def _one_by_one(waiting: Iterable[tuple[Task, dict[str, Any]]], log: Path | None = None) -> Finished:
    """Run each task in a new process, which isolates memory and crashes."""
    for task, settings in waiting:
        begin = partial(begin_process, log, dict(os.environ))
        with deaf_to_interrupts():
            context = fresh_processes()
        with ProcessPoolExecutor(1, context, initializer=begin) as pool:
            with deaf_to_interrupts():
                future = pool.submit(JOBS[task.stage], settings)  # starts the process
            try:
                outcome = _outcome(future.result)
            except BaseException:  # interrupted: leaving the pool would wait for the whole run
                for process in multiprocessing.active_children():
                    process.kill()
                raise
        yield (task, *outcome)


def begin_process(log: Path | None, environment: Mapping[str, str]) -> None:
    """Make this process exit with its parent, and append what it prints to a file if one is named."""
    end_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.close(target)


def end_with_parent() -> None:
    """Make this process exit when its parent is killed.

    Otherwise it would write the same state as the run that resumes it.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def run_on_ray(stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run a task in a Ray worker, on the devices that Ray gave it."""
    return JOBS[stage]({**settings, **own_devices()})


def _on_ray(
    address: str, resources: Mapping[str, float]
) -> Callable[[Iterable[tuple[Task, dict[str, Any]]]], Finished]:
    """Return a function that runs each task as a Ray task in a new process.

    The task of a lost worker or node is retried. It resumes after its last epoch if the cache is on a shared disk.
    """

    def run(waiting: Iterable[tuple[Task, dict[str, Any]]]) -> Finished:
        ray = connect(address)
        check_room(ray, resources.get("cpu", 1), resources.get("gpu", 0), "task")
        options = {"max_retries": RETRIES, "max_calls": 1, "scheduling_strategy": "SPREAD"}
        remote = ray.remote(num_cpus=resources.get("cpu", 1), num_gpus=resources.get("gpu", 0), **options)(run_on_ray)
        pending = {remote.remote(task.stage, settings): task for task, settings in waiting}
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            yield (pending.pop(ready), *_outcome(partial(ray.get, ready)))

    return run


def _outcome(ask: Callable[[], Any]) -> tuple[dict[str, Any] | None, str]:
    try:
        return ask(), ""
    except Exception as error:  # such as a dead worker or no memory: the other tasks go on
        # Ray's errors are also of the cause's class, and their message contains its traceback.
        cause = getattr(error, "cause", None) or error
        words = " ".join(str(cause).split())[-500:]
        return None, str(cause) if isinstance(cause, KDError) else f"{type(cause).__name__}: {words}"


def _is_done(task: Task, path: Path) -> bool:
    check_file(path, own=lambda _: True)  # the content is checked below, before anything is run
    if not path.is_file():
        return False
    try:
        made_with = read_json(path).get("settings")
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is not a result ({error}): delete it, and the run is run again") from None
    if made_with != json.loads(json.dumps(dict(task.settings))):
        raise ConfigError(
            f"{path} was made with other settings than the grid has now: delete it, or give the run another name"
        )
    return True


def _record(task: Task, result: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Return a result to be saved, without paths of the machine that made it."""
    kept = {key: value for key, value in result.items() if key not in ("folder", "command", "setting_sources")}
    kept |= {stage: _without_paths(kept[stage]) for stage in ("teacher", "assistant") if kept.get(stage)}
    if task.stage == DISTILLED:
        kept["kd_options"] = {key: value for key, value in kept["kd_options"].items() if key not in LOCAL}
    figures = dict(kept[task.stage])
    history = figures.get("history") or {}
    figures["history"] = {name: [_short(value) for value in values] for name, values in history.items()}
    return {
        "grid": task.grid,
        "run": task.run,
        "settings": dict(task.settings),
        **kept,
        task.stage: figures,
        "command": command,
    }


def _without_paths(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a teacher, or of each of several, without its cache folder."""
    members = {"members": [_without_paths(member) for member in figures["members"]]} if "members" in figures else {}
    return {key: value for key, value in figures.items() if key != "path"} | members


def _short(value: Any) -> Any:
    return float(f"{value:.{SIGNIFICANT}g}") if isinstance(value, float) else value
