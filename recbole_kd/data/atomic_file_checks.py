"""Checks of RecBole's atomic files before RecBole reads them.

RecBole's own messages on malformed files are unclear or missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole.utils import FeatureType

from recbole_kd.errors import ConfigError, DataError

N_BENCHMARK = 3
TYPES = frozenset(kind.value for kind in FeatureType)
ID_KEYS = ("USER_ID_FIELD", "ITEM_ID_FIELD")
Headers = dict[str, dict[str, FeatureType]]
"""Source (inter, user, item) -> column -> type."""
Wanted = dict[str, list[str] | None]
BYTE_ORDER_MARK = "\ufeff"


def check_atomic_files(config: Any) -> Headers:
    """Check the headers of the files that a Config reads and return the loaded columns.

    A missing interaction file is left to RecBole, whose error names it.

    Returns:
        source (inter, user, item) -> column -> type.

    Raises:
        DataError: a header is malformed, lacks the column of users or items or one that ``load_col`` names, or has a
            column of a type that its use does not allow.
        ConfigError: ``load_col`` leaves out users or items, or names a missing file; ``benchmark_filename`` does not
            name three files.
    """
    names = config["benchmark_filename"]
    if names is not None and len(names) != N_BENCHMARK:
        raise ConfigError(
            f"benchmark_filename={names} names {len(names)} files: it must name {N_BENCHMARK}, for training, "
            "validation and test, such as [train, valid, test]"
        )
    wanted = _wanted_columns(config)
    loaded: Headers = {}
    for source in dict.fromkeys(("inter", *wanted, *(("user", "item") if config["load_col"] is None else ()))):
        for path in _files_of(source, config, must_be_there=source in wanted):
            header = columns_of(path, config)
            _check_columns(
                path, header, {key: config[key] for key in ID_KEYS} if source == "inter" else {}, wanted.get(source)
            )
            columns = _loaded(source, header, config, wanted)
            if source == "inter":
                _check_types(path, columns, config)
                _refuse_histories(path, header, columns, config)
            if loaded.setdefault(source, columns).keys() != columns.keys():
                odd = sorted(loaded[source].keys() ^ columns.keys())[0]
                raise DataError(
                    f"{path}: the column {odd} is not in all files of benchmark_filename={names}: name what to read in "
                    "load_col"
                )
    return loaded


def interaction_files(config: Any) -> list[Path]:
    """Return the paths of a Config's interaction files, whether or not they exist."""
    names, dataset = config["benchmark_filename"], config["dataset"]
    stems = [dataset] if names is None else [f"{dataset}.{name}" for name in names]
    return [Path(config["data_path"]) / f"{stem}.inter" for stem in stems]


def _files_of(source: str, config: Any, must_be_there: bool) -> list[Path]:
    if source == "inter":
        paths = interaction_files(config)
        absent = [path for path in paths if not path.is_file()]
        whole = paths[0].with_name(f"{config['dataset']}.inter")
        if absent and config["benchmark_filename"] and whole.is_file():
            raise DataError(
                f"{absent[0]} is missing, but benchmark_filename={config['benchmark_filename']} names it: set "
                f"--benchmark_filename=~ to split {whole.name} anew, or name files that exist"
            )
        return [path for path in paths if path.is_file()]
    path = Path(config["data_path"]) / f"{config['dataset']}.{source}"
    if must_be_there and not path.is_file():
        raise ConfigError(
            f"load_col names {source}, but there is no file {path}: leave {source} out of load_col, or add the file"
        )
    return [path] if path.is_file() else []


def _loaded(source: str, header: Mapping[str, FeatureType], config: Any, wanted: Wanted) -> dict[str, FeatureType]:
    """Return the columns of a header that load_col and unload_col select."""
    if config["load_col"] and source not in wanted:
        return {}
    named, dropped = wanted.get(source), (config["unload_col"] or {}).get(source) or ()
    return {name: kind for name, kind in header.items() if (named is None or name in named) and name not in dropped}


def _check_types(path: Path, columns: Mapping[str, FeatureType], config: Any) -> None:
    """Refuse ids that are not tokens and times that are not numbers."""
    for key in ID_KEYS:
        kind = columns.get(config[key], FeatureType.TOKEN)
        if kind != FeatureType.TOKEN:
            raise DataError(
                f"{path}: the column {config[key]} is of type {kind.value}: write {config[key]}:token in the first line"
            )
    time = config["TIME_FIELD"]
    kind = columns.get(time, FeatureType.FLOAT)
    if kind != FeatureType.FLOAT:
        raise DataError(
            f"{path}: the times {time} are of type {kind.value}, which cannot be ordered: write numbers and "
            f"{time}:float in the first line (`recbole-kd prepare NAME --form=table --time=COLUMN` "
            "converts dates), or set TIME_FIELD to a name that is not a column"
        )


def _refuse_histories(
    path: Path, header: Mapping[str, FeatureType], columns: Mapping[str, FeatureType], config: Any
) -> None:
    """Refuse rows that bring their own history.

    RecBole's sequential models would learn from these histories; here histories are made from the interactions.
    """
    suffix = config["LIST_SUFFIX"]
    ready = [name + suffix for name in header if name + suffix in header]
    if config["ITEM_LIST_LENGTH_FIELD"] in header and config["ITEM_ID_FIELD"] + suffix in header:
        ready.append(config["ITEM_LIST_LENGTH_FIELD"])
    chosen = "load_col" in config.external_config_dict
    unread = next((name for name in ready if name in columns or not chosen), None)
    if unread is not None:
        raise DataError(
            f"{path}: the column {unread} holds ready-made histories, which are not read: histories are made from the "
            f"interactions, one a row, of a user in order. Write those, or leave the column out with "
            f"--load_col='{{inter: [{', '.join(name for name in header if name not in ready)}]}}' to learn from the "
            "targets alone"
        )


def _wanted_columns(config: Any) -> Wanted:
    """Return ``load_col`` as source -> columns; None means all columns."""
    wanted: Wanted = {}
    for source, columns in (config["load_col"] or {}).items():
        if columns != "*" and not isinstance(columns, list | tuple | set):
            raise ConfigError(
                f"load_col.{source}={columns!r} is not allowed: it must be a list of columns, such as [user_id, "
                "item_id], or '*'"
            )
        wanted[source] = None if columns == "*" else list(columns)
    ids = [config[key] for key in ID_KEYS]
    inter = wanted.get("inter", []) if config["load_col"] else None
    missing = [field for field in ids if inter is not None and field not in inter]
    dropped = [field for field in ids if field in ((config["unload_col"] or {}).get("inter") or ())]
    if missing:
        raise ConfigError(
            f"load_col={config['load_col']} leaves out {missing[0]}, which every training needs: add it to inter"
        )
    if dropped:
        raise ConfigError(
            f"unload_col={config['unload_col']} leaves out {dropped[0]}, which every training needs: take it out"
        )
    return wanted


def columns_of(path: Path, config: Any) -> dict[str, FeatureType]:
    """Return the columns that a file's first line names, with their types.

    Args:
        config: a Config, or a mapping with ``field_separator`` and ``encoding``.

    Raises:
        DataError: the first line is not a header as RecBole needs it, or the file is not text in this encoding.
        ConfigError: ``field_separator`` is empty, or ``encoding`` is unknown.
    """
    encoding, separator = config["encoding"], config["field_separator"]
    if not separator:
        raise ConfigError(
            f"field_separator={separator!r} is not allowed: it must be the text between two columns, such as a tab "
            "or ','"
        )
    try:
        with open(path, encoding=encoding) as stream:
            line = stream.readline().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise not_text(path, error) from None
    except LookupError:
        raise ConfigError(f"encoding={encoding!r} is unknown: name one that Python knows, such as utf-8") from None
    except UnicodeError as error:  # a file without the byte order mark of utf-16
        raise DataError(
            f"{path} is not text in {encoding} ({error}): name its encoding, such as --encoding=utf-8"
        ) from None
    if line.startswith(BYTE_ORDER_MARK):
        raise marked(path)
    fields = [field.split(":") for field in line.split(separator)]
    wrong = next(
        (":".join(field) for field in fields if len(field) != 2 or not field[0] or field[1] not in TYPES), None
    )
    if wrong is not None:
        raise DataError(
            f"{path}: the first line has {wrong[:80]!r} where a column belongs: write name:type (token, float, "
            f"token_seq or float_seq), with {separator!r} between columns (field_separator)"
        )
    names = [name for name, _ in fields]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: the first line names the column {twice} twice: rename one of them")
    return {name: FeatureType(kind) for name, kind in fields}


def _check_columns(
    path: Path, header: Mapping[str, FeatureType], ids: Mapping[str, str], wanted: list[str] | None
) -> None:
    """Refuse a file without the columns that it needs.

    Args:
        ids: key -> column that must be there. wanted: columns that ``load_col`` names.
    """
    there = ", ".join(header)
    for key, column in ids.items():
        if column not in header:
            raise DataError(
                f"{path} has no column {column} (it has {there}): rename its column, or set --{key}=<its name>"
            )
    absent = next((column for column in wanted or () if column not in header), None)
    if absent is not None:
        raise DataError(
            f"load_col names {absent}, which {path} does not have (it has {there}): leave it out, or name one of these"
        )


def marked(path: Path) -> DataError:
    """Return the error for a file with a byte order mark."""
    return DataError(
        f"{path} begins with a byte order mark, which would become part of its first column's name: save it without "
        "one, or set --encoding=utf-8-sig"
    )


def not_text(path: Path, error: UnicodeDecodeError) -> DataError:
    """Return the error for a file in another encoding."""
    byte = error.object[error.start]
    return DataError(
        f"{path} is not {error.encoding} text (byte 0x{byte:02x}: {error.reason}): save it so, or name its encoding "
        "with --encoding="
    )


def file_in_another_encoding(config: Any) -> DataError | None:
    """Return the error for the first file that ``encoding`` cannot read, or None."""
    for path in sorted(Path(config["data_path"]).glob(f"{config['dataset']}.*")):
        try:
            with open(path, encoding=config["encoding"]) as stream:
                for _ in stream:
                    pass
        except UnicodeDecodeError as error:
            return not_text(path, error)
    return None
