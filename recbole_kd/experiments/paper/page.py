"""The page docs/reproduction.md: every table and figure of the paper beside our runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from textwrap import fill

from recbole_kd.config.property_layers import properties_dir, read_yaml
from recbole_kd.experiments.paper.block import Block, header, rows_of, short
from recbole_kd.experiments.paper.cells import FOLDER, DataSet, Paper, Table
from recbole_kd.experiments.paper.matching import OF_TEACHER, Finished, Match, Same
from recbole_kd.experiments.paper.progress import Progress, progress, time_in_words

MARK = "<!-- This page is written by `recbole-kd reproduce paper`: change properties/paper/ instead. -->"
"""First line of the page. A file without it is not replaced."""

WIDTH = 120
"""Longest line outside tables."""

MANY = 9
"""Number of rows from which a list of missing rows is a number."""


def page(paper: Paper, finished: Mapping[Same, list[Finished]]) -> str:
    """Return the whole page, made from the finished results only."""
    own = read_yaml(properties_dir() / FOLDER / "page.yaml")
    states = progress(paper, finished, extras=True)
    sections = [
        _section(paper, table, [state for state in states if state.cell.table is table])
        for table in paper.tables.values()
    ]
    parts = [MARK, "# Reproduction", own["head"].strip(), _state(paper, states), _data(paper), *sections]
    parts.append(own["beyond"].strip())
    return "\n\n".join(parts) + "\n"


def _state(paper: Paper, states: Sequence[Progress]) -> str:
    """Return the table of what is done and missing of each table."""
    titles = ["table or figure", "cells", "with a result", "with all seeds", "runs missing", "time of these"]
    lines = ["## State", "", _row(titles), _line(len(titles))]
    for table in paper.tables.values():
        own = [state for state in states if state.cell.table is table and not state.cell.extra]
        begun = [state for state in own if state.done]
        complete = [state for state in own if not state.missing]
        runs = sum(len(state.missing) for state in own)
        numbers = [str(count) for count in (len(own), len(begun), len(complete), runs)]
        lines.append(_row([table.title.partition(",")[0], *numbers, time_in_words(own)]))
    return "\n".join([*lines, "", "Tables and figures share runs; each line counts its own."])


def _data(paper: Paper) -> str:
    lines = ["## Data", "", _row(["data", "users", "items", "interactions", "prepared by"]), _line(5)]
    for data in paper.data.values():
        counts = [f"{data.counts[name]:,}" for name in ("users", "items", "interactions")]
        lines.append(_row([data.name, *counts, f"`{data.prepare}`"]))
    return "\n".join([*lines, "", paper.about_data.strip()])


def _section(paper: Paper, table: Table, states: Sequence[Progress]) -> str:
    """Return the section of a table: rows by data set, differences, notes, what is missing."""
    letters = _letters(paper, states)
    parts = [f"## {table.title}"]
    if table.assumed:
        parts.append(fill(f"Assumed: {table.assumed.strip()}", WIDTH))
    for data, group in groupby(states, key=lambda state: state.cell.data):
        found = _table_of(paper, table, data, list(group), letters)
        parts += [f"**{data.name}**", found] if found else []
    if len(parts) <= 2 and not any(state.done for state in states):
        parts.append("Nothing of it was run yet.")
    if letters:
        listed = [fill(f"- {letter}: {words}", WIDTH, subsequent_indent="  ") for words, letter in letters.items()]
        parts.append("\n".join(["Differences:", "", *listed]))
    if table.notes:
        parts.append(table.notes.strip())
    missing = _missing(paper, table, states)
    return "\n\n".join([*parts, missing] if missing else parts)


def _table_of(paper: Paper, table: Table, data: DataSet, states: Sequence[Progress], letters: Mapping[str, str]) -> str:
    """Return the table of one data set; empty if it has neither published numbers nor results."""
    published = table.key in paper.published
    lines = []
    for pair, group in groupby(states, key=lambda state: state.cell.pair):
        block = Block(paper, table, data, pair, list(group))
        for number, row in enumerate(rows_of(block, published)):
            found = _differences(paper, data, row.match, row.stage) if row.match else []
            marks = sorted(letters[words] for words in found)
            name = paper.pairs[pair] if number == 0 else ""
            lines.append(_row([name, *row.fields, " ".join(marks)]))
    if not lines:
        return ""
    titles = ["pair", *header(table, published), "differs"]
    return "\n".join([_row(titles), _line(len(titles)), *lines])


def _differences(paper: Paper, data: DataSet, match: Match, stage: str = "distilled") -> list[str]:
    """Return the differences of runs from the paper in words, each with its reason.

    Args:
        paper: the reasons.
        data: the data set.
        match: the runs.
        stage: leave out what does not concern this stage.
    """
    words = [match.other_data] if match.other_data else []
    for key, (ours, theirs) in match.differences.items():
        of_teacher = key.startswith(OF_TEACHER)
        if (stage == "teacher" and not of_teacher) or (stage == "student" and (of_teacher or key.startswith("kd_"))):
            continue
        name = f"teacher `{key.removeprefix(OF_TEACHER)}`" if of_teacher else f"`{key}`"
        instead = "none" if theirs is None else short(theirs)
        words.append(f"{name} {short(ours)} instead of {instead}: {paper.differences[key]}")
    return words


def _letters(paper: Paper, states: Iterable[Progress]) -> dict[str, str]:
    """Return difference in words -> letter, in the order of the cells."""
    words = [found for state in states if state.match for found in _differences(paper, state.cell.data, state.match)]
    return {found: chr(ord("a") + number) for number, found in enumerate(dict.fromkeys(words))}


def _missing(paper: Paper, table: Table, states: Sequence[Progress]) -> str:
    """Return the table of what was not run, with its commands and the time it would take."""
    lines = []
    for (data, pair), group in groupby(states, key=lambda state: (state.cell.data, state.cell.pair)):
        left = [state for state in group if state.missing]
        if left:
            runs = sum(len(state.missing) for state in left)
            names = [f"{state.cell.row} ({len(state.missing)})" for state in left]
            rows = ", ".join(names) if len(names) < MANY else f"{len(names)} rows"
            command = f"`recbole-kd reproduce paper {table.option} --data={data.key} --pair={pair}`"
            lines.append(_row([data.name, paper.pairs[pair], rows, str(runs), time_in_words(left), command]))
    if not lines:
        return ""
    titles = ["data", "pair", "rows (missing seeds)", "runs", "time", "command"]
    return "\n".join(["Not run yet:", "", _row(titles), _line(len(titles)), *lines])


def _row(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _line(n: int) -> str:
    return f"|{'---|' * n}"
