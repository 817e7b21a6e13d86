"""A comparison of KD methods for one teacher and one student, checked before any training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recbole_kd.config.merging import merge_sources
from recbole_kd.config.schema import DEFAULT_WEIGHT
from recbole_kd.config.validation import check_value, invalid
from recbole_kd.config.value_types import Seed
from recbole_kd.errors import ConfigError
from recbole_kd.experiments.grid import DISTILLED, STUDENT, Grid, Task, read_grid
from recbole_kd.experiments.tables import ALONE
from recbole_kd.integration.compat import quiet_warnings
from recbole_kd.pipeline.plan import Plan, make_plan
from recbole_kd.pipeline.request import SHARED, make_request
from recbole_kd.pipeline.run_identity import method_digest, pair_digest
from recbole_kd.pipeline.training_entries import WITHOUT_EFFECT
from recbole_kd.storage.digests import settings_digest

RESULTS = "results"
"""Folder of the results, below the comparison's; those of the search for settings are in a folder of their own."""

COMMON = SHARED | WITHOUT_EFFECT | {"model", "teacher", "dataset", "setting", "teacher_config"}
"""Keys that all methods of a comparison share."""

NO_EFFECT = ("kd_compare", "resume")
"""Keys of a run that a comparison decides itself."""

EXAMPLE = "--kd=RCEKD,RRD"


@dataclass(frozen=True)
class Method:
    """One row of a comparison: keys of a run but its seed, and the seeds that it is run with."""

    name: str
    settings: Mapping[str, Any]
    seeds: Sequence[int]


@dataclass(frozen=True)
class Comparison:
    """The part of a comparison that is the same for all methods.

    Attributes:
        base: keys that all runs share. methods: in the order of the table; tests are against the first.
        local: keys that say where and how a run happens, not what it is.
        about: a checked plan of the first method, whose data all other plans share. property_files: by method, that
            with settings for this data set and pair, or none. is_searched: were the settings searched?
    """

    base: Mapping[str, Any]
    methods: Sequence[Method]
    local: Mapping[str, Any]
    about: Plan
    property_files: Mapping[str, str] = field(default_factory=dict)
    is_searched: bool = False

    @property
    def seeds(self) -> list[int]:
        """All seeds, each once."""
        return sorted({seed for method in self.methods for seed in method.seeds})

    @property
    def first_seed(self) -> int:
        """The seed that settings are chosen with."""
        return self.methods[0].seeds[0]

    @property
    def metric(self) -> str:
        """The metric that gains and tests are of, lower case: ``valid_metric``."""
        return str(self.about.alone["valid_metric"]).lower()

    @property
    def folder_name(self) -> str:
        """The name of the folder: the same for the same pair, data and common keys, another for others."""
        request = self.about.request
        names = (request.model, self.about.teacher_name.replace(",", "+"), request.dataset)
        return f"compare-{'-'.join(names)}-{pair_digest(self.about)[:8]}"

    def with_local(self, **places: str) -> Comparison:
        """Return the same comparison with other folders."""
        return replace(self, local={**self.local, **places})

    def searched(self) -> Comparison:
        """Return the same comparison with settings that were searched."""
        return replace(self, is_searched=True)

    def grid(self, chosen: Mapping[str, Mapping[str, Any]] | None = None) -> Grid:
        """Return all tasks, one seed after the other, the student alone first.

        Args:
            chosen: settings by method, and for the student alone under its row's name, over their own.
        """
        chosen = chosen or {}
        own = {method.name: {**method.settings, **chosen.get(method.name, {})} for method in self.methods}
        tasks = []
        for seed in self.seeds:
            tasks.append(self.student_task(RESULTS, ALONE, seed, chosen.get(ALONE, {})))
            tasks += [
                self.task(RESULTS, method.name, seed, own[method.name])
                for method in self.methods
                if seed in method.seeds
            ]
        return Grid(RESULTS, self.folder_name, tasks, self.methods[0].name, metric=self.metric)

    def student_task(self, folder: str, name: str, seed: int, own: Mapping[str, Any]) -> Task:
        """Return the task of the student alone, with keys of its own."""
        settings = {**{key: value for key, value in self.base.items() if not key.startswith("kd_")}, **own}
        return Task(folder, name, seed, {**settings, "seed": seed}, STUDENT, settings_digest(settings)[:8])

    def task(self, folder: str, name: str, seed: int, settings: Mapping[str, Any]) -> Task:
        """Return the task of a method.

        Raises:
            KDError: a run would refuse these settings.
        """
        settings = {**settings, "kd_compare": False}
        made = method_digest(self.plan({**settings, "seed": seed}))
        digest = settings_digest({"settings": settings, "made": made})[:8]
        return Task(folder, name, seed, {**settings, "seed": seed}, DISTILLED, digest)

    def plan(self, settings: Mapping[str, Any]) -> Plan:
        """Return the checked plan of a run on the comparison's data.

        Raises:
            KDError: the run would refuse these settings.
        """
        return _plan(settings, self.local, self.about)


def make_comparison(methods: Sequence[Method], common: Mapping[str, Any], places: Mapping[str, Any]) -> Comparison:
    """Return a comparison of which each method was checked on the data.

    Args:
        common: keys that the student alone has too. places: folders as absolute paths, over those of the methods.

    Raises:
        KDError: a method that cannot be compared, or keys that a run would refuse.
    """
    _check_common(methods)
    local = {**_split(methods[0].settings)[1], **places}
    base = {key: value for key, value in _split(common)[0].items() if key != "kd"}
    split = [Method(method.name, _split(method.settings)[0], method.seeds) for method in methods]
    about = _plan({**split[0].settings, "seed": split[0].seeds[0]}, local)
    own_files = {}
    for method in split:
        plan = _plan({**method.settings, "seed": method.seeds[0]}, local, about)
        own_files[method.name] = next((name for name in plan.property_files[DISTILLED] if _is_of_pair(name)), "")
    return Comparison(base, split, local, about, own_files)


def _split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keys that decide results, and those that say where and how a run happens.

    Raises:
        ConfigError: a key that a comparison decides itself.
    """
    for key in NO_EFFECT:
        if key in values:
            reason = "it has no effect on a comparison, which always has the student alone and continues"
            raise invalid(key, values[key], reason)
    local = {key: value for key, value in values.items() if key in WITHOUT_EFFECT}
    return {key: value for key, value in values.items() if key not in local and key != "seed"}, local


def _is_of_pair(name: str) -> bool:
    """Return whether a property file holds settings of a method for one data set and pair."""
    return name.startswith("distiller/") and "-" in name


def _plan(settings: Mapping[str, Any], local: Mapping[str, Any], about: Plan | None = None) -> Plan:
    with quiet_warnings():
        return make_plan(
            make_request({"kd_weight": DEFAULT_WEIGHT, **settings, **local}), about.splits if about else None
        )


# -- what was asked for ---------------------------------------------------------------------------------------------


def methods_of(values: Mapping[str, Any], seeds: Sequence[int]) -> list[Method]:
    """Return the methods that ``kd`` names, with the other keys in common.

    Raises:
        ConfigError: none is named, or one twice.
    """
    given = values.get("kd")
    names = [given] if isinstance(given, str) and ":" in given and "," not in given else _listed(given)
    if not names:
        raise ConfigError(f"--kd is missing: name the methods to compare, such as {EXAMPLE}, or a grid by --grid=FILE")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid("kd", given, f"it names {twice} twice", f"Try --kd={','.join(dict.fromkeys(names))}")
    return [Method(name, {**values, "kd": name}, seeds) for name in names]


def _listed(given: object) -> list[str]:
    """Names with commas between them, or a list of them."""
    names = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else []
    if given is not None and not isinstance(given, str | list):
        raise invalid("kd", given, "expected methods with commas between them", f"Try {EXAMPLE}")
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise invalid("kd", given, "expected methods with commas between them, none of them empty", f"Try {EXAMPLE}")
    return [name.strip() for name in names]


def methods_of_grid(
    path: Path, values: Mapping[str, Any], seeds: list[int] | None, *, allow_code: bool
) -> tuple[list[Method], dict[str, Any]]:
    """Return the methods of a grid's file, and the keys of its ``config``.

    Args:
        values: keys of the command line; they go over the file's ``config``. seeds: go over the file's.

    Raises:
        ConfigError: no grid, or it names code and ``allow_code`` is False.
    """
    grid = read_grid(path, allow_code=allow_code, given=values, seeds=seeds)
    other = next((task for task in grid.tasks if task.grid != grid.name), None)
    if other is not None:
        raise ConfigError(
            f"The run {other.run!r} of {path} is from another grid, which only recbole-kd reproduce reads: leave out "
            "its `from`"
        )
    if ALONE in grid.runs:
        raise ConfigError(f"The run {ALONE!r} of {path} has the name of the student's own row: rename it")
    methods = []
    for run in grid.runs:
        tasks = [task for task in grid.tasks if task.run == run]
        methods.append(Method(run, merge_sources(None, tasks[0].settings, {}), [task.seed for task in tasks]))
    return methods, merge_sources(None, grid.common, {})


def _check_common(methods: Sequence[Method]) -> None:
    """Refuse methods that differ in what a comparison shares (ConfigError)."""
    first = methods[0]
    for method in methods[1:]:
        keys = [key for key in {**first.settings, **method.settings} if key in COMMON]
        key = next((key for key in keys if first.settings.get(key) != method.settings.get(key)), None)
        if key is not None:
            raise ConfigError(
                f"{key}={method.settings.get(key)} of {method.name!r} differs from {first.settings.get(key)} of "
                f"{first.name!r}: a comparison has one teacher, one student and one data set, put {key} into `config`"
            )
    files: dict[str, str] = {}
    for method in methods:
        other = files.setdefault(re.sub(r"[^a-z0-9.]+", "-", method.name.lower()), method.name)
        if other != method.name:
            raise ConfigError(f"{other!r} and {method.name!r} would write the same files: rename one in a grid")


def seeds_of(given: object) -> list[int] | None:
    """Return the seeds of ``0,1,2``, ``[0, 1, 2]`` or ``0``; None for none given.

    Raises:
        ConfigError: not seeds, or one twice.
    """
    if given is None:
        return None
    try:
        seeds: object = [int(text) for text in given.split(",")] if isinstance(given, str) else given
    except ValueError:
        raise invalid("seed", given, "expected integers with commas between them", "Try --seed=0,1,2") from None
    seeds = seeds if isinstance(seeds, list) else [seeds]
    found: list[int] = check_value("seed", seeds, list[Seed], example=[0, 1, 2])
    if not found or len(set(found)) < len(found):
        raise invalid("seed", given, "expected different integers with commas between them", "Try --seed=0,1,2")
    return found
