"""Layouts of raw files: conversion to interactions with a split, and allowed options."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from recbole_kd.config.schema import PREPARE_KEYS, check_table
from recbole_kd.data.item_features.matrix_files import FeatureMatrix
from recbole_kd.data.preparing import multimodal_layouts, raw_files, split_files
from recbole_kd.data.preparing.citeulike_tags import TAG_FILES, tags_of
from recbole_kd.data.preparing.filters import by_user_and_time, first_per_pair, k_core
from recbole_kd.data.preparing.interactions import Collector, Interactions, Mask, token_problem
from recbole_kd.data.preparing.split_rules import HOLD_OUT_RULE, RATIO_RULE, hold_out, ratio_split
from recbole_kd.errors import ConfigError, DataError
from recbole_kd.storage.json_files import read_json


@dataclass(frozen=True)
class Options:
    """Options of the command line; None means the default of the layout."""

    raw: Path = Path(".")
    file: str | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None
    rating: str | None = None
    columns: str | None = None
    min_rating: float | None = None
    core: int | None = None
    seed: int | None = None
    split: str | None = None
    attributes: str | None = None


@dataclass(frozen=True)
class Converted:
    """Interactions in memory with their split, ready to be written."""

    inter: Interactions
    sources: list[Path]
    parts: dict[str, Mask] = field(default_factory=dict)
    split_rule: str = "none"
    settings: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, list[str]] | None = None
    attributes_name: str = "attributes"
    features: Mapping[str, FeatureMatrix] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """A layout of raw files: its converter, and the options that it accepts."""

    convert: Callable[[Options], Converted]
    options: frozenset[str]


def from_counted(options: Options) -> Converted:
    """Convert CiteULike's layout: a line a user, users with fewer than 5 items left out.

    Items are not filtered. The items' tags are added if their files exist.
    """
    path = raw_files.find_file(options.raw, options.file or "users.dat")
    lines = raw_files.Lines(path)
    inter = Collector().add(raw_files.counted_lists(lines, min_items=5), lines).interactions()
    sources, tags = [path], None
    if all(raw_files.there(options.raw, name) for name in TAG_FILES):
        sources += [raw_files.find_file(options.raw, name) for name in TAG_FILES]
        tags = tags_of(sources[1], sources[2], inter.item_tokens)
    settings = {"min_items_per_user": 5}
    return Converted(inter, sources, ratio_split(inter.user), RATIO_RULE, settings, tags, "tags")


def from_lightgcn(options: Options) -> Converted:
    """Convert a train and a test file.

    The times are the positions in a user's train line, continued in the test line.
    """
    paths = [raw_files.find_file(options.raw, name) for name in ("train.txt", "test.txt")]
    collector, sizes = Collector(), []
    for path, empty in zip(paths, (False, True), strict=True):  # some published test files have users without items
        lines = raw_files.Lines(path)
        collector.add(raw_files.sequences(lines, repeats=False, empty=empty), lines)
        sizes.append(len(collector))
    inter, n_train = collector.interactions(), sizes[0]
    _refuse_leak(inter, n_train, paths[1])
    train_counts = np.bincount(inter.user[:n_train], minlength=len(inter.user_tokens))
    inter.time[n_train:] += train_counts[inter.user[n_train:]]
    order = np.lexsort((inter.time, inter.user))
    seed = 2020 if options.seed is None else options.seed
    inter = inter.take(order)
    return Converted(inter, paths, hold_out(inter.user, order < n_train, seed), HOLD_OUT_RULE, {"seed": seed})


def from_checkins(options: Options) -> Converted:
    """Convert check-ins (Gowalla, Brightkite): first visits, a core, split by time."""
    path = raw_files.find_file(options.raw, options.file or "loc-gowalla_totalCheckins.txt")
    lines = raw_files.Lines(path)
    inter = Collector().add(raw_files.check_ins(lines), lines).interactions()
    core = 10 if options.core is None else options.core
    inter = _filtered(inter, core)
    return Converted(inter, [path], ratio_split(inter.user), RATIO_RULE, {"core": core})


def from_ratings(options: Options) -> Converted:
    """Convert lines of user, item, rating, time.

    High ratings and the first row of each pair are kept, then a core; the split is by time.
    """
    path = raw_files.find_file(options.raw, options.file or "ratings.txt")
    min_rating = 4.0 if options.min_rating is None else options.min_rating
    core = 10 if options.core is None else options.core
    lines = raw_files.Lines(path)
    rows = raw_files.ratings(lines, min_rating)
    inter = _filtered(Collector(with_rating=True).add(rows, lines).interactions(), core)
    settings = {"min_rating": min_rating, "core": core}
    return Converted(inter, [path], ratio_split(inter.user), RATIO_RULE, settings)


def from_sequence(options: Options) -> Converted:
    """Convert a line a user in time order; an item may occur again, as in any history."""
    path = raw_files.find_file(options.raw, _required("sequence", options, "file"))
    lines = raw_files.Lines(path)
    rows = raw_files.sequences(lines, repeats=True, empty=False)
    inter = Collector().add(rows, lines).interactions()
    sources, attributes = [path], None
    if options.attributes is not None:
        sources.append(raw_files.find_file(options.raw, options.attributes))
        attributes = _attributes(sources[-1], inter.item_tokens)
    return Converted(inter, sources, *_optional_split(inter, options), attributes=attributes)


def from_table(options: Options) -> Converted:
    """Convert a csv, tsv, txt, dat or Parquet table with named columns.

    The first row of each (user, item) is kept.
    """
    path = raw_files.find_file(options.raw, _required("table", options, "file"))
    user, item = _required("table", options, "user"), _required("table", options, "item")
    if options.min_rating is not None and options.rating is None:
        raise ConfigError("--min_rating needs the column of the ratings: add --rating=COLUMN.")
    table = raw_files.open_table(path, None if options.columns is None else _column_names(options.columns))
    for column in filter(None, (user, item, options.time, options.rating)):
        if column not in table.columns:
            known = ", ".join(table.columns)
            headless = "" if options.columns else "; name its columns if it has no header line, --columns=user,item,..."
            raise ConfigError(
                f"{path} has no column {column!r}{close_match(column, table.columns)}: it has {known}{headless}."
            )
    collector = Collector(with_rating=options.rating is not None, has_time=options.time is not None)
    rows = raw_files.table_rows(table, user, item, options.time, options.rating, options.min_rating)
    inter = _filtered(collector.add(rows, table).interactions(), options.core)
    return Converted(inter, [path], *_optional_split(inter, options), settings=_given(options, "min_rating", "core"))


def from_json(options: Options) -> Converted:
    """Convert train.json, val.json and test.json (user -> items) with features by item number."""
    inter, part, sources, repeats = multimodal_layouts.json_splits(options.raw)
    features, files = multimodal_layouts.features_of(options.raw, inter.item_tokens)
    parts, settings = multimodal_layouts.masks(part), {"repeats_left_out": repeats}
    return Converted(inter, [*sources, *files], parts, "as published", settings, features=features)


def from_labelled(options: Options) -> Converted:
    """Convert a table with x_label 0, 1, 2 (train, valid, test) and features by item number."""
    path = raw_files.find_file(options.raw, _required("labelled", options, "file"))
    inter, part = multimodal_layouts.labelled_rows(path, options.user, options.item, options.time)
    features, files = multimodal_layouts.features_of(options.raw, inter.item_tokens)
    return Converted(inter, [path, *files], multimodal_layouts.masks(part), "as published", features=features)


def from_split(options: Options) -> Converted:
    """Convert train, valid and test files with columns of users and items."""
    inter, part, sources, repeats = split_files.split_rows(options.raw, options.user, options.item, options.time)
    settings = {"repeats_left_out": repeats}
    return Converted(inter, sources, multimodal_layouts.masks(part), "as published", settings)


FORMS: dict[str, Form] = {
    "counted": Form(from_counted, frozenset({"file"})),
    "json": Form(from_json, frozenset()),
    "labelled": Form(from_labelled, frozenset({"file", "user", "item", "time"})),
    "lightgcn": Form(from_lightgcn, frozenset({"seed"})),
    "checkins": Form(from_checkins, frozenset({"file", "core"})),
    "ratings": Form(from_ratings, frozenset({"file", "min_rating", "core"})),
    "split": Form(from_split, frozenset({"user", "item", "time"})),
    "sequence": Form(from_sequence, frozenset({"file", "split", "attributes"})),
    "table": Form(
        from_table,
        frozenset({"file", "user", "item", "time", "rating", "columns", "min_rating", "core", "split"}),
    ),
}


def check_options(form: str, options: Options) -> None:
    """Refuse options that the layout does not accept, and values out of range."""
    for option in fields(Options):
        given = getattr(options, option.name) is not None
        if given and option.name != "raw" and option.name not in FORMS[form].options:
            allowed = ", ".join(f"--{other}" for other in sorted(FORMS[form].options))
            raise ConfigError(f"--{option.name} has no effect on the form {form}: it accepts {allowed}.")
    check_table(vars(options), PREPARE_KEYS, {})


def _filtered(inter: Interactions, core: int | None) -> Interactions:
    """Keep the first row per pair, then the core; sort users by appearance and rows by time."""
    inter = inter.take(first_per_pair(inter))
    if core is not None:
        inter = inter.take(k_core(inter.user, inter.item, core))
    return by_user_and_time(inter)


def _column_names(text: str) -> list[str]:
    """Return the names in ``--columns=user,item,...``."""
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(
            f"Invalid --columns={text}: expected a name for each column of the file. Try "
            "--columns=user,item,rating,time."
        )
    return names


def _optional_split(inter: Interactions, options: Options) -> tuple[dict[str, Mask], str]:
    if options.split == "ratio":
        if not inter.has_time:
            getLogger().warning(
                "--split=ratio without --time divides each user's rows in the order of the file: if that is not their "
                "order in time (a file sorted by item, say), add --time=COLUMN, or leave out --split and let a run "
                "split at random"
            )
        return ratio_split(inter.user), RATIO_RULE
    return {}, "none"


def _refuse_leak(inter: Interactions, n_train: int, test: Path) -> None:
    """Refuse pairs in both train and test: memorising them would make the test trivial."""
    pairs = inter.pairs()
    leaked = np.flatnonzero(np.isin(pairs[n_train:], pairs[:n_train]))
    if len(leaked):
        row = n_train + int(leaked[0])
        user, item = inter.user_tokens[inter.user[row]], inter.item_tokens[inter.item[row]]
        raise DataError(f"{test}: item {item!r} of user {user!r} is in train as well ({len(leaked):,} such rows).")


def _attributes(path: Path, items: list[str]) -> dict[str, list[str]]:
    """Return the attribute ids of the given items, in their order."""
    try:
        table = read_json(path)
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}.") from None
    if not isinstance(table, dict) or not all(isinstance(values, list) for values in table.values()):
        raise DataError(f"{path} must be a JSON object of lists: item id -> attribute ids.")
    attributes = {item: [str(value) for value in table.get(item, [])] for item in items}
    for item, values in attributes.items():
        for value in values:
            if (problem := token_problem(value)) or " " in value:
                raise DataError(f"{path}: attribute {value!r} of item {item!r}: {problem or 'it holds a blank'}.")
    return attributes


def _required(form: str, options: Options, name: str) -> str:
    value: str | None = getattr(options, name)
    if not value:
        raise ConfigError(f"The form {form} needs --{name}=.")
    return value


def _given(options: Options, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def close_match(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """Return " (did you mean ...?)" for a near miss, else an empty text."""
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
