"""The cells of the paper's tables and figures, read from the property files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recbole_kd.config.known_keys import close_names
from recbole_kd.config.property_layers import properties_dir, read_yaml
from recbole_kd.config.validation import invalid, try_value
from recbole_kd.errors import ConfigError

FOLDER = "paper"
"""Folder of the tables in the property files; comments in tables.yaml say what each key means."""

REFERENCE = "RCE-KD"
"""The row whose runs also give the teacher's and the student's own metrics of a block."""

TEACHER, ALONE = "teacher", "student alone"
"""Names of the two published rows that are no runs of their own."""


@dataclass(frozen=True)
class DataSet:
    """A data set of the paper.

    Attributes:
        key: name of the data set. name: its name in the page. prepare: the command that prepares it.
        counts: the paper's ``users``, ``items``, ``interactions`` and, if known, ``test`` of the general setting.
        other: words for a result on data with other counts.
        unrecorded: words for a result that records no counts; empty if nothing speaks against it.
    """

    key: str
    name: str
    prepare: str
    counts: Mapping[str, int]
    other: str = "on data of other counts than the paper's"
    unrecorded: str = ""


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper.

    Attributes:
        key: such as ``table-1``. title: its title in the page. config: settings of all its runs.
        data, pairs: keys of its data sets, and pairs as ``TEACHER-STUDENT``. columns: its metrics.
        rows: row -> settings of a run. extras: further rows of ours, which the paper does not have.
        tuned: row -> keys in which a finished run may differ.
        assumed, notes: Markdown about it.
    """

    key: str
    title: str
    config: Mapping[str, Any]
    data: Sequence[str]
    pairs: Sequence[str]
    columns: Sequence[str]
    rows: Mapping[str, Mapping[str, Any]]
    extras: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tuned: Mapping[str, frozenset[str]] = field(default_factory=dict)
    assumed: str = ""
    notes: str = ""

    @property
    def option(self) -> str:
        """The words of the command line that choose the table."""
        kind, _, number = self.key.partition("-")
        return f"--{kind}={number}"


@dataclass(frozen=True)
class Cell:
    """One cell: a run on one data set, for one pair, with its published numbers.

    Attributes:
        table: its table. data: its data set. pair: ``TEACHER-STUDENT``. row: its row.
        settings: arguments of run_recbole_kd without the seed.
        published: numbers of the table's columns; empty if the paper's text has none.
        extra: whether the paper has no such cell.
    """

    table: Table
    data: DataSet
    pair: str
    row: str
    settings: Mapping[str, Any]
    published: Sequence[float] = ()
    extra: bool = False

    @property
    def tuned(self) -> frozenset[str]:
        """Keys in which a finished run may differ from the settings."""
        return self.table.tuned.get(self.row, frozenset())

    @property
    def option(self) -> str:
        """The words of the command line that choose the cell."""
        method = f'"{self.row}"' if " " in self.row else self.row
        return f"{self.table.option} --data={self.data.key} --pair={self.pair} --method={method}"


@dataclass(frozen=True)
class Choice:
    """The tables, data sets, pairs and rows that the user names; an empty tuple means all."""

    tables: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paper:
    """All tables, and the rules by which finished results are recognised.

    Attributes:
        seeds: seeds of a cell. selection: validation metric that chooses among settings.
        data, pairs, tables: by key.
        differences: key -> the reason why a finished run may differ in it.
        neutral: keys that do not change a result.
        published: table -> data set -> pair -> row -> numbers.
        about_data: Markdown on the data.
    """

    seeds: Sequence[int]
    selection: str
    data: Mapping[str, DataSet]
    pairs: Mapping[str, str]
    tables: Mapping[str, Table]
    differences: Mapping[str, str]
    neutral: frozenset[str]
    published: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]]
    about_data: str = ""

    def numbers(self, table: Table, data: str, pair: str, row: str) -> Sequence[float]:
        """Return the published numbers of a row; empty if there are none."""
        return self.published.get(table.key, {}).get(data, {}).get(pair, {}).get(row, ())

    def cells(self, choice: Choice | None = None, *, extras: bool = False) -> list[Cell]:
        """Return the chosen cells in the order of the tables.

        Args:
            choice: what is chosen. If None, all.
            extras: also the rows that the paper does not have.

        Raises:
            ConfigError: a name is unknown, or no cell has all that is chosen.
        """
        choice = choice or Choice()
        tables = [self.tables[key] for key in _chosen_tables(choice.tables, self.tables)]
        data = _chosen("data", choice.data, [key for table in tables for key in table.data])
        pairs = _chosen("pair", choice.pairs, [pair for table in tables for pair in table.pairs])
        rows = _chosen("method", choice.rows, [row for table in tables for row in table.rows])
        found = [
            cell
            for table in tables
            for key in table.data
            for pair in table.pairs
            for cell in self._block(table, self.data[key], pair, extras)
            if key in data and pair in pairs and (cell.row in rows or cell.extra)
        ]
        if not found:
            raise ConfigError(
                f"No cell of {', '.join(table.title.partition(',')[0] for table in tables)} has all of data "
                f"{', '.join(data)}, pair {', '.join(pairs)} and method {', '.join(rows)}: leave one of them out."
            )
        return found

    def _block(self, table: Table, data: DataSet, pair: str, extras: bool) -> list[Cell]:
        teacher, _, student = pair.partition("-")
        common = {"model": student, "teacher": teacher, "dataset": data.key, **table.config}
        cells = [
            Cell(table, data, pair, row, {**common, **own}, self.numbers(table, data.key, pair, row))
            for row, own in table.rows.items()
        ]
        if extras:
            cells += [Cell(table, data, pair, row, {**common, **own}, (), True) for row, own in table.extras.items()]
        return cells


def read_paper() -> Paper:
    """Read the tables of the paper from the property files."""
    folder = properties_dir() / FOLDER
    content, published = read_yaml(folder / "tables.yaml"), read_yaml(folder / "published.yaml")
    rows = content["rows"]
    return Paper(
        seeds=tuple(content["seeds"]),
        selection=content["selection"],
        data={key: DataSet(key, **values) for key, values in content["data"].items()},
        pairs=content["pairs"],
        tables={key: _table(key, values, rows) for key, values in content["tables"].items()},
        differences=content["differences"],
        neutral=frozenset(content["neutral"]),
        published=published,
        about_data=content["about_data"],
    )


def _table(key: str, values: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> Table:
    own = values["rows"]
    named = {row: row for row in own} if isinstance(own, list) else own
    tuned = values.get("tuned") or {"rows": [], "keys": []}
    return Table(
        **{
            **{name: value for name, value in values.items() if value is not None},
            "key": key,
            "rows": {row: rows[value] if isinstance(value, str) else value for row, value in named.items()},
            "tuned": dict.fromkeys(tuned["rows"], frozenset(tuned["keys"])),
        }
    )


def _chosen_tables(given: Iterable[str], tables: Mapping[str, Table]) -> list[str]:
    for key in given:
        if key not in tables:
            kind, _, number = key.partition("-")
            numbers = [known.partition("-")[2] for known in tables if known.startswith(f"{kind}-")]
            shown = int(number) if number.isdecimal() else number  # a number is typed without quotes
            raise invalid(kind, shown, f"expected one of {', '.join(numbers)}", try_value(kind, int(numbers[0])))
    return list(given) or list(tables)


def _chosen(option: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the given names, or all if none is given; an unknown one is a ConfigError."""
    allowed = list(dict.fromkeys(known))
    for name in given:
        if name not in allowed:
            advice = try_value(option, (close_names(name, allowed) or allowed)[0])
            raise invalid(option, name, f"expected one of {', '.join(allowed)}", advice)
    return list(given) or allowed
