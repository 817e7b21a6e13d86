"""The rows of one pair on one data set: published numbers, ours, gain, p and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from recbole_kd.experiments.paper.cells import ALONE, REFERENCE, TEACHER, DataSet, Paper, Table
from recbole_kd.experiments.paper.matching import AT, Match, value_of
from recbole_kd.experiments.paper.progress import Progress
from recbole_kd.experiments.significance import paired_p_value

BASELINES = {TEACHER: "teacher", ALONE: "student"}
"""Row that is no run of its own -> stage of a result."""

METRICS = {"recall": "R", "ndcg": "N"}


@dataclass(frozen=True)
class Block:
    """The cells of a table that share data and pair."""

    paper: Paper
    table: Table
    data: DataSet
    pair: str
    states: Sequence[Progress]

    @property
    def reference(self) -> Progress | None:
        """RCE-KD's cell if it has results, else the first cell that has."""
        found = [state for state in self.states if state.match]
        return next((state for state in found if _is_reference(state)), found[0] if found else None)


@dataclass(frozen=True)
class Row:
    """One row: its fields between pair and differences, its runs, and the stage shown."""

    fields: Sequence[str]
    match: Match | None
    stage: str = "distilled"


def header(table: Table, published: bool) -> list[str]:
    """Return the titles of the fields of a row."""
    names = [_title(column) for column in table.columns]
    pairs = [[f"{name} paper", "ours"] if published else [name] for name in names]
    more = [] if _is_series(table) else [f"gain{', ours (paper)' if published else ''}", "p"]
    return ["row", *(title for pair in pairs for title in pair), *more, "seeds"]


def rows_of(block: Block, published: bool) -> list[Row]:
    """Return the rows of a block: teacher and student alone, then its cells.

    Args:
        block: the block.
        published: whether the paper's text has numbers of the table. If not, rows without results are left out.
    """
    rows = [] if _is_series(block.table) else [_baseline(block, name, published) for name in BASELINES]
    rows += [_cell(block, state, published) for state in block.states if state.match or not state.cell.extra]
    return [row for row in rows if row.match or (published and any(row.fields[1:]))]


def _baseline(block: Block, name: str, published: bool) -> Row:
    reference = block.reference
    match = reference.match if reference else None
    values = [ours_of(match, column, BASELINES[name]) for column in block.table.columns]
    numbers = block.paper.numbers(block.table, block.data.key, block.pair, name)
    found = match if any(values) else None
    seeds = _seeds(found) if found and name == ALONE else ""
    return Row([name, *_numbers(block.table, numbers, values, published), "", "", seeds], found, BASELINES[name])


def _cell(block: Block, state: Progress, published: bool) -> Row:
    match, columns = state.match, block.table.columns
    values = [ours_of(match, column) for column in columns]
    name = state.cell.row
    if match and match.tuned:
        name += f" (`{', '.join(f'{key}: {short(value)}' for key, value in match.tuned.items())}`)"
    more = [] if _is_series(block.table) else [_gain(block, state), _p_value(block, state)]
    fields = [name, *_numbers(block.table, state.cell.published, values, published), *more, _seeds(match)]
    return Row(fields, match)


def ours_of(match: Match | None, column: str, stage: str = "distilled") -> dict[int, float]:
    """Return a column of a stage by seed, for the seeds that have it."""
    runs = match.runs if match else {}
    found = {seed: value_of(run.result[stage], column) for seed, run in runs.items() if run.result.get(stage)}
    return {seed: value for seed, value in found.items() if value is not None}


def _numbers(
    table: Table, published: Sequence[float], values: Sequence[Mapping[int, float]], with_published: bool
) -> list[str]:
    digits = 2 if _is_series(table) and with_published else 4
    fields = []
    for place, ours in enumerate(values):
        if with_published:
            fields.append(number(published[place], digits) if published else "")
        fields.append(_spread(list(ours.values()), digits))
    return fields


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    many = len(set(values)) > 1
    return number(mean(values), digits) + (f" ± {number(stdev(values), digits)}" if many else "")


def _gain(block: Block, state: Progress) -> str:
    """Return the gain of the last metric over the student alone, with the paper's."""
    column = block.table.columns[-1]
    own, alone = ours_of(state.match, column), ours_of(state.match, column, "student")
    shared = sorted(set(own) & set(alone))
    ours = _percent(mean(own[s] for s in shared), mean(alone[s] for s in shared)) if shared else ""
    base = block.paper.numbers(block.table, block.data.key, block.pair, ALONE)
    theirs = f"({_percent(state.cell.published[-1], base[-1])})" if base and state.cell.published else ""
    return f"{ours} {theirs}".strip()


def _percent(value: float, base: float) -> str:
    return f"{100 * (value / base - 1):+.0f} %" if base else ""


def _p_value(block: Block, state: Progress) -> str:
    reference = block.reference
    if reference is None or not _is_reference(reference) or reference is state:
        return ""
    column = block.table.columns[-1]
    own, other = ours_of(reference.match, column), ours_of(state.match, column)
    shared = sorted(set(own) & set(other))
    p = paired_p_value([own[seed] for seed in shared], [other[seed] for seed in shared])
    return "" if p is None else f"{p:.2g}".removeprefix("0")


def _is_reference(state: Progress) -> bool:
    return state.cell.row == REFERENCE


def _is_series(table: Table) -> bool:
    return any(AT in column for column in table.columns)


def _title(column: str) -> str:
    name, at, cut = column.partition("@")
    return f"{METRICS[name]}@{cut}" if at and name in METRICS else column.replace("_", " ")


def _seeds(match: Match | None) -> str:
    seeds = sorted(match.runs) if match else []
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def number(value: float, digits: int = 4) -> str:
    """Return a number without its leading zero."""
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def short(value: Any) -> str:
    """Return a value of a key as it is written in a file."""
    return f"{value:g}" if isinstance(value, float) else str(value)
