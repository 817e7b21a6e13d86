"""Finished results matched to the cells of the paper by their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from recbole_kd.config.property_layers import distiller_layers, student_layers, teacher_layers
from recbole_kd.experiments.paper.cells import Cell, DataSet, Paper
from recbole_kd.experiments.runner import check_result, not_a_result
from recbole_kd.storage.json_files import read_json

SAME = ("model", "teacher", "kd", "dataset", "setting", "eval_protocol")
"""Keys in which a result and its cell are always equal."""

OF_TEACHER = "teacher_config."
TOLERANCE = 0.02
"""Largest relative difference of a count from the paper's on the same data."""

AT = " at "

CAPS = {"max_minutes": ("student", "distilled"), "teacher_config.max_minutes": ("teacher",)}
"""Cap -> stages that it can end. A cap that ended none of them had no effect."""

Same = tuple[Any, ...]
"""Values of the keys of SAME."""


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        grid, run: where it belongs. seed: the student's seed.
        settings: as recorded, without the seed. flat: the same with ``teacher_config.KEY`` and the keys of SAME.
        result: content of its JSON file.
    """

    grid: str
    run: str
    seed: int
    settings: Mapping[str, Any]
    flat: Mapping[str, Any]
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Match:
    """The finished runs of a cell, all of the same settings.

    Attributes:
        runs: by seed.
        differences: key -> (value of ours, value of the paper), for keys with a reason in the paper's file.
        tuned: key -> value of ours, for keys that were chosen on validation.
        other_data: words on data that are not the paper's; empty if they are.
    """

    runs: Mapping[int, Finished]
    differences: Mapping[str, tuple[Any, Any]]
    tuned: Mapping[str, Any]
    other_data: str = ""

    @property
    def exact(self) -> bool:
        """Whether the runs have the paper's settings and data."""
        return not self.differences and not self.other_data


def read_finished(results: Path) -> dict[Same, list[Finished]]:
    """Return the finished distillations of a folder of results by the keys of SAME.

    Raises:
        ConfigError: a result is damaged.
    """
    found: dict[Same, list[Finished]] = {}
    for path in sorted(results.glob("*/*.json")):
        try:
            content = read_json(path)
            if isinstance(content, dict) and {"grid", "run", "settings", "distilled"} <= set(content):
                check_result(content)
                run = _finished(content)
                found.setdefault(_same(run.flat), []).append(run)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise not_a_result(path, error) from None
    return found


def _same(settings: Mapping[str, Any]) -> Same:
    return tuple(settings.get(key) for key in SAME)


def _finished(result: Mapping[str, Any]) -> Finished:
    settings = {key: value for key, value in result["settings"].items() if key != "seed"}
    own = {"setting": result.get("setting", "general"), "eval_protocol": result.get("eval_protocol", "recbole")}
    return Finished(result["grid"], result["run"], int(result["seed"]), settings, {**own, **flat(settings)}, result)


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which a teacher's key is always ``teacher_config.KEY``."""
    rest = {key: value for key, value in settings.items() if key != "teacher_config" and not key.startswith("teacher.")}
    dotted = {key.removeprefix("teacher."): value for key, value in settings.items() if key.startswith("teacher.")}
    of_teacher = {**(settings.get("teacher_config") or {}), **dotted}
    return {**rest, **{OF_TEACHER + key: value for key, value in of_teacher.items()}}


def find(cell: Cell, finished: Mapping[Same, list[Finished]], paper: Paper, *, exact: bool = False) -> Match | None:
    """Return the finished runs of a cell, None if there are none.

    Of several settings those with the fewest differences from the paper are taken. Among these, the best on validation
    is taken if the cell's row is tuned, else those with the most seeds.

    Args:
        cell: the cell.
        finished: all finished runs, as of :func:`read_finished`.
        paper: the rules.
        exact: accept only runs with the paper's settings and data.
    """
    groups: dict[str, list[tuple[Finished, Match]]] = {}
    for run in finished.get(_same(cell.settings), []):
        match = _match(cell, run, paper)
        if match is not None and not (exact and not match.exact):
            groups.setdefault(f"{run.grid} {run.run} {match.other_data} {sorted(run.flat.items())}", []).append(
                (run, match)
            )
    if not groups:
        return None
    found = [_merged(group) for group in groups.values()]
    return min(found, key=lambda match: _order(match, cell, paper))


def _merged(group: list[tuple[Finished, Match]]) -> Match:
    _, first = group[0]
    runs = {run.seed: run for run, _ in sorted(group, key=lambda pair: pair[0].seed)}
    return Match(runs, first.differences, first.tuned, first.other_data)


def _order(match: Match, cell: Cell, paper: Paper) -> tuple[float, ...]:
    first = match.runs[min(match.runs)]
    valid = (first.result["distilled"]["valid"] or {}).get(paper.selection, 0.0)
    differences = len(match.differences) + bool(match.other_data)
    return (differences, -valid, -len(match.runs)) if cell.tuned else (differences, -len(match.runs), -valid)


def _match(cell: Cell, run: Finished, paper: Paper) -> Match | None:
    """Return the match of a single run, None if it is another experiment."""
    asked = flat(cell.settings)
    if not all(is_measured(run.result["distilled"], column) for column in cell.table.columns):
        return None
    differences: dict[str, tuple[Any, Any]] = {}
    tuned: dict[str, Any] = {}
    for key in sorted({*asked, *run.flat} - {*SAME, *paper.neutral}):
        default = defaults_of(cell, of_teacher=key.startswith(OF_TEACHER)).get(key.removeprefix(OF_TEACHER))
        ours, theirs = run.flat.get(key, default), asked.get(key, default)
        if ours == theirs or _idle_cap(key, run):
            continue
        if key in cell.tuned:
            tuned[key] = ours
        elif key in paper.differences:
            differences[key] = (ours, theirs)
        else:
            return None
    return Match({run.seed: run}, differences, tuned, words_of_data(cell.data, run))


def _idle_cap(key: str, run: Finished) -> bool:
    stages = [run.result[stage] for stage in CAPS.get(key, ()) if run.result.get(stage)]
    return bool(stages) and all(stage.get("stopped_by", "max_minutes") != "max_minutes" for stage in stages)


def words_of_data(data: DataSet, run: Finished) -> str:
    """Return words on a run's data if they are not the paper's, else an empty text."""
    counts = run.result.get("data")
    if counts is None:
        return data.unrecorded
    found = {**counts, "interactions": sum(counts[part] for part in ("train", "valid", "test"))}
    expected = data.counts if run.flat["setting"] == "general" else without_test(data.counts)
    return "" if same_counts(expected, found) else data.other


def without_test(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts without the test rows, which are those of the general setting."""
    return {name: count for name, count in counts.items() if name != "test"}


def same_counts(expected: Mapping[str, int], found: Mapping[str, int]) -> bool:
    """Test whether counts are within 2 % of those expected; a missing one is skipped."""
    return all(abs(found.get(name, count) - count) <= TOLERANCE * count for name, count in expected.items())


def defaults_of(cell: Cell, *, of_teacher: bool = False) -> Mapping[str, Any]:
    """Return what the property files say of a cell's student and method, or of its teacher."""
    own = cell.settings
    return _defaults(
        *(str(own[key]) for key in ("kd", "dataset", "model", "teacher", "eval_protocol", "setting")), of_teacher
    )


@cache
def _defaults(
    kd: str, dataset: str, student: str, teacher: str, protocol: str, setting: str, of_teacher: bool
) -> Mapping[str, Any]:
    if of_teacher:
        return teacher_layers(teacher, dataset, protocol, setting)[0]
    return {
        **student_layers(student, dataset, protocol, setting)[0],
        **distiller_layers(kd, dataset, student, teacher)[0],
    }


def value_of(figures: Mapping[str, Any], column: str) -> float | None:
    """Return a test metric, or a series at a share of the epochs; None if it is missing."""
    name, is_series, share = column.partition(AT)
    if not is_series:
        return (figures["test"] or {}).get(name)
    series = (figures.get("history") or {}).get(name)
    if not series:
        return None
    epoch = max(1, round(len(series) * float(share.rstrip(" %")) / 100))
    return float(series[epoch - 1])


def is_measured(figures: Mapping[str, Any], column: str) -> bool:
    """Test whether figures have the metric or the series of a column."""
    return value_of(figures, column) is not None
