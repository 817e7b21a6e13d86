"""What RecBole's atomic files must have before RecBole reads them: it says little, or nothing, of a file that lacks it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole.utils import FeatureType

from recbole_kd.errors import ConfigError, DataError

N_BENCHMARK = 3
TYPES = frozenset(kind.value for kind in FeatureType)
ID_KEYS = ("USER_ID_FIELD", "ITEM_ID_FIELD")
BYTE_ORDER_MARK = "\ufeff"


def check_atomic_files(config: Any) -> None:
    """Check the headers of the files that a Config reads. A file that is not there is left to RecBole, which names it.

    Raises:
        DataError: a header is malformed, or has no column of users or items, or none that ``load_col`` names. ConfigError: ``load_col``
            leaves out users or items, or ``benchmark_filename`` does not name three files.
    """
    names = config["benchmark_filename"]
    if names is not None and len(names) != N_BENCHMARK:
        raise ConfigError(
            f"benchmark_filename={names} names {len(names)} files: it must name {N_BENCHMARK}, for training, validation and test, such as "
            "[train, valid, test]"
        )
    ids = {key: config[key] for key in ID_KEYS}
    wanted = _wanted_columns(config)
    folder, dataset = Path(config["data_path"]), config["dataset"]
    for source in {"inter": None, **wanted}:
        stems = [dataset] if source != "inter" or names is None else [f"{dataset}.{name}" for name in names]
        for path in (folder / f"{stem}.{source}" for stem in stems):
            if path.is_file():
                _check_columns(path, columns_of(path, config), ids if source == "inter" else {}, wanted.get(source))


def _wanted_columns(config: Any) -> dict[str, list[str] | None]:
    """``load_col``, source -> columns; None stands for all of them."""
    wanted: dict[str, list[str] | None] = {}
    for source, columns in (config["load_col"] or {}).items():
        if columns != "*" and not isinstance(columns, list | tuple | set):
            raise ConfigError(
                f"load_col.{source}={columns!r} is not allowed: it must be a list of columns, such as [user_id, item_id], or '*'"
            )
        wanted[source] = None if columns == "*" else list(columns)
    ids = [config[key] for key in ID_KEYS]
    inter = wanted.get("inter", []) if config["load_col"] else None
    missing = [field for field in ids if inter is not None and field not in inter]
    dropped = [field for field in ids if field in ((config["unload_col"] or {}).get("inter") or ())]
    if missing:
        raise ConfigError(f"load_col={config['load_col']} leaves out {missing[0]}, without which nothing can be learnt: add it to inter")
    if dropped:
        raise ConfigError(f"unload_col={config['unload_col']} leaves out {dropped[0]}, without which nothing can be learnt: take it out")
    return wanted


def columns_of(path: Path, config: Any) -> dict[str, FeatureType]:
    """Return the columns that a file's first line names, with their types.

    Args:
        config: a Config, or a mapping with ``field_separator`` and ``encoding``.

    Raises:
        DataError: the first line is no header of RecBole's.
    """
    encoding, separator = config["encoding"], config["field_separator"]
    if not separator:
        raise ConfigError(f"field_separator={separator!r} is not allowed: it must be what stands between two columns, such as a tab or ','")
    try:
        with open(path, encoding=encoding) as stream:
            line = stream.readline().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise not_text(path, error) from None
    except LookupError:
        raise ConfigError(f"encoding={encoding!r} is unknown: name one that Python knows, such as utf-8") from None
    except UnicodeError as error:  # a file without the mark that utf-16 begins with
        raise DataError(f"{path} is not text in {encoding} ({error}): name its encoding, such as --encoding=utf-8") from None
    if line.startswith(BYTE_ORDER_MARK):
        raise marked(path)
    fields = [field.split(":") for field in line.split(separator)]
    wrong = next((":".join(field) for field in fields if len(field) != 2 or not field[0] or field[1] not in TYPES), None)
    if wrong is not None:
        raise DataError(
            f"{path}: the first line has {wrong[:80]!r} where a column belongs: write name:type (token, float, token_seq or float_seq), "
            f"with {separator!r} between columns (field_separator)"
        )
    names = [name for name, _ in fields]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: the first line names the column {twice} twice: rename one of them")
    return {name: FeatureType(kind) for name, kind in fields}


def _check_columns(path: Path, header: Mapping[str, FeatureType], ids: Mapping[str, str], wanted: list[str] | None) -> None:
    """Refuse a file without the columns that it needs: those of ``ids``, key -> column, and those that ``load_col`` names."""
    there = ", ".join(header)
    for key, column in ids.items():
        if column not in header:
            raise DataError(f"{path} has no column {column} (it has {there}): rename its column, or set --{key}=<its name>")
    absent = next((column for column in wanted or () if column not in header), None)
    if absent is not None:
        raise DataError(f"load_col names {absent}, which {path} does not have (it has {there}): leave it out, or name one of these")


def marked(path: Path) -> DataError:
    """The error of a file with a byte order mark."""
    return DataError(
        f"{path} begins with a byte order mark, which would become part of its first column's name: save it without one, or set "
        "--encoding=utf-8-sig"
    )


def not_text(path: Path, error: UnicodeDecodeError) -> DataError:
    """The error of a file in another encoding."""
    byte = error.object[error.start]
    return DataError(
        f"{path} is no {error.encoding} text (byte 0x{byte:02x}: {error.reason}): save it so, or name its encoding with --encoding="
    )


def file_in_another_encoding(config: Any) -> DataError | None:
    """The error of the first of a data set's files that cannot be read in ``encoding``; None where all can."""
    for path in sorted(Path(config["data_path"]).glob(f"{config['dataset']}.*")):
        try:
            with open(path, encoding=config["encoding"]) as stream:
                for _ in stream:
                    pass
        except UnicodeDecodeError as error:
            return not_text(path, error)
    return None
