"""A grid of runs, read from YAML: named settings x seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_kd.config.code_names import methods_in, refuse_code, refuse_permission
from recbole_kd.config.known_keys import close_names
from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import read_config_file
from recbole_kd.config.schema import GRID_KEYS, check_table
from recbole_kd.config.validation import check_value, invalid, try_value
from recbole_kd.errors import ConfigError

EXAMPLES: dict[str, Any] = {
    "seeds": [0, 1],
    "runs": {"RCE-KD": {"kd": "RCEKD"}},
    "config": {"epochs": 100},
    "metric": "ndcg@20",
}
"""Values that an error message proposes."""

METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")
"""Columns of a table."""

DISTILLED, STUDENT = "distilled", "student"
"""Stages that a task ends with."""


@dataclass(frozen=True)
class Task:
    """One run of a grid.

    Attributes:
        grid: name of the grid whose folder holds the result.
        run: name of the run.
        seed: seed of the student.
        settings: arguments of run_recbole_kd, with the seed.
        stage: ``distilled`` for a whole run, ``student`` for the student trained alone.
        digest: digest of all that decides the result, part of the file name; empty if the settings tell results apart.
    """

    grid: str
    run: str
    seed: int
    settings: Mapping[str, Any]
    stage: str = DISTILLED
    digest: str = ""

    @property
    def file_name(self) -> str:
        """Name of the result's file in the grid's folder."""
        name = re.sub(r"[^a-z0-9.]+", "-", self.run.lower()).strip("-")
        return f"{name}-seed{self.seed}{'-' if self.digest else ''}{self.digest}.json"


@dataclass(frozen=True)
class Grid:
    """The runs that are reported together.

    Attributes:
        name: name of the grid.
        title: title of the table.
        tasks: the runs in the order of the file, sorted by seed.
        reference: the run that is compared with every other by a t-test.
        published: the paper's numbers, row name -> metric -> value.
        metric: the one of METRICS for gains and tests, which also stops the trainings.
        common: ``config`` of the file, overridden by the keys of the command line.
    """

    name: str
    title: str
    tasks: list[Task]
    reference: str | None = None
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    metric: str = "ndcg@20"
    common: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> list[str]:
        """Names of the runs, each once."""
        return list(dict.fromkeys(task.run for task in self.tasks))


def read_grid(
    path: Path, *, allow_code: bool = False, given: Mapping[str, Any] | None = None, seeds: list[int] | None = None
) -> Grid:
    """Read a grid: ``config`` common to all runs, ``seeds`` and ``runs`` (name -> settings).

    A run may have its own ``seeds``. ``from`` in a run names another grid that has a run of that name with these
    settings: its results are shared.

    Args:
        path: the YAML file.
        allow_code: let the file name methods as ``module:Class``.
        given: keys of the command line, which override the file's ``config``.
        seeds: seeds of the command line, which override the file's.

    Raises:
        ConfigError: the file is not a grid. Also if it names code as a method (``kd: module:Class``) and ``allow_code``
            is False.
    """
    if not path.is_file():
        raise ConfigError(f"No grid at {path}: name a YAML file such as properties/reproduce/citeulike-mf-mf.yaml")
    content: dict[str, Any] = dict(read_config_file(path))
    for part in (content, content.get("config"), *_values_of(content.get("runs"))):
        refuse_permission(part if isinstance(part, dict) else {}, path)
    refuse_code(methods_in(content), path, allow_code)
    unknown = next((key for key in content if key not in GRID_KEYS), None)
    if unknown is not None:
        advice = next((try_value(name, content[unknown], str(path)) for name in close_names(unknown, GRID_KEYS)), None)
        raise invalid(unknown, content[unknown], f"expected one of the keys {', '.join(GRID_KEYS)}", advice, str(path))
    content.setdefault("runs", None)
    check_table(content, GRID_KEYS, EXAMPLES, str(path))
    common = dict(content.get("config") or {})
    common = merge_sources(None, common, given) if given else common
    seeds = seeds or content.get("seeds", [0])
    published = {
        name: _mapping(path, f"published.{name}", row) for name, row in (content.get("published") or {}).items()
    }
    tasks = []
    for name, settings in content["runs"].items():
        own = _mapping(path, f"runs.{name}", settings)
        _check_overridden(path, str(name), own, given or {})
        belongs_to = str(own.pop("from", path.stem))
        if Path(belongs_to).name != belongs_to or "\0" in belongs_to:
            raise ConfigError(
                f"from: {belongs_to!r} of the run {name!r} of {path} is not the name of a grid: write the name of "
                "a file next to it"
            )
        if not path.with_name(f"{belongs_to}.yaml").is_file():
            raise ConfigError(
                f"from: {belongs_to} of the run {name!r} of {path} is not a grid next to it: "
                f"there is no {belongs_to}.yaml"
            )
        for seed in _seeds(path, f"runs.{name}.seeds", own.pop("seeds", seeds)):
            tasks.append(Task(belongs_to, str(name), seed, {**common, **own, "seed": seed}))
    _check_complete(path, tasks)
    tasks.sort(key=lambda task: task.seed)  # all runs of one seed come before the next seed
    _check_names(path, tasks)
    reference = content.get("reference")
    if reference is not None and reference not in content["runs"]:
        raise ConfigError(
            f"reference={reference!r} of {path} is none of its runs: {', '.join(map(str, content['runs']))}"
        )
    return Grid(
        path.stem,
        str(content.get("title") or path.stem),
        tasks,
        reference,
        published,
        content.get("metric", Grid.metric),
        common,
    )


def _values_of(mapping: Any) -> list[Any]:
    return list(mapping.values()) if isinstance(mapping, dict) else []


def _mapping(path: Path, key: str, value: Any) -> dict[Any, Any]:
    """Return a copy of a mapping, empty for None."""
    return dict(check_value(key, value, dict | None, example=EXAMPLES["config"], place=str(path)) or {})


def _seeds(path: Path, key: str, value: Any) -> list[int]:
    seeds: list[int] = check_value(key, value, GRID_KEYS["seeds"], example=EXAMPLES["seeds"], place=str(path))
    return seeds


def _check_overridden(path: Path, run: str, own: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse a key of the command line that a run of the file sets itself (ConfigError)."""
    key = next((key for key in given if key in own), None)
    if key is not None:
        raise ConfigError(
            f"--{key}={given[key]} has no effect on the run {run!r} of {path}, which has {key}: {own[key]}: leave one "
            "of them out"
        )


def _check_complete(path: Path, tasks: list[Task]) -> None:
    """Refuse a run without a student, a teacher, a method or a data set (ConfigError)."""
    for task in tasks:
        for keys in (("model",), ("teacher", "teacher_path"), ("kd",), ("dataset",)):
            if not any(task.settings.get(key) for key in keys):
                raise ConfigError(
                    f"The run {task.run!r} of {path} has no {keys[0]}: give it, or write it into `config` for all runs"
                )


def _check_names(path: Path, tasks: list[Task]) -> None:
    seen: dict[str, str] = {}
    for task in tasks:
        other = seen.setdefault(task.file_name, task.run)
        if other != task.run:
            raise ConfigError(
                f"The runs {other!r} and {task.run!r} of {path} would write the same file {task.file_name}: rename one"
            )
