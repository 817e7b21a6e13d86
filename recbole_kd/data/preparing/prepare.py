"""Preparation of a data set from published raw files: known data sets, checks, folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_kd.data.item_features.matrix_files import write_matrix
from recbole_kd.data.preparing.atomic_writer import (
    MANIFEST,
    check_prepared,
    new_folder,
    write_inter,
    write_item,
    write_manifest,
)
from recbole_kd.data.preparing.known_datasets import KNOWN, Known
from recbole_kd.data.preparing.pickled_matrices import ReadPickle
from recbole_kd.data.preparing.published_files import download_raw_files, published
from recbole_kd.data.preparing.raw_layouts import FORMS, Converted, Options, check_options, close_match
from recbole_kd.errors import ConfigError, DataError
from recbole_kd.storage.digests import file_sha256
from recbole_kd.storage.download import Say

Counts = dict[str, dict[str, int]]


OUT = Path("dataset")
"""Default folder of prepared data sets, which RecBole reads by default too."""


def prepare_command(name: str, out: Path = OUT) -> str | None:
    """Return the command that prepares a known data set, for an error; None for another name."""
    if (known := KNOWN.get(name)) is None:
        return None
    raw = f"--raw=<folder with {known.needs}>" if published(name).by_hand else "--download"
    return f"recbole-kd prepare {name} {raw}{_out_option(out)}"


def _out_option(out: Path) -> str:
    return "" if out == OUT else f" --out={shlex.quote(str(out))}"


def next_command(name: str, out: Path = OUT) -> str:
    """Return the command that distils a student on a data set that was prepared."""
    known = KNOWN.get(name)
    teacher = "BM3" if known is not None and known.form in ("json", "labelled") else "LightGCN"
    place = "" if out == OUT else f" --data_path={shlex.quote(str(out))}"
    return f"recbole-kd run --model=MF --teacher={teacher} --kd=RCEKD --dataset={shlex.quote(name)}{place}"


def not_prepared(name: str, folder: Path | str) -> DataError | None:
    """Return the error for a known data set that is not in its folder; None for another name."""
    command = prepare_command(name, Path(folder).parent)
    return DataError(f"The data set {name} is not prepared in {folder}: run `{command}`") if command else None


def prepare_published(
    name: str,
    out: Path,
    say: Say,
    read_pickle: ReadPickle,
    options: Options | None = None,
    *,
    form: str | None = None,
    check_counts: bool = True,
) -> dict[str, Any]:
    """Download the raw files of a known data set, prepare it, and return its manifest.

    Args:
        name: the data set.
        out: see :func:`prepare`.
        say: shows a line.
        read_pickle: see :data:`recbole_kd.data.preparing.pickled_matrices.ReadPickle`.
        options: options of the preparation; ``raw`` gets the raw files. If None, ``out/raw/NAME`` gets them.
        form: see :func:`prepare`.
        check_counts: see :func:`prepare`.

    Raises:
        DownloadError: a file cannot be downloaded or is not what was published.
        KDError: see :func:`prepare`.
    """
    known = KNOWN.get(name)
    if known is None:
        raise ConfigError(f"--download knows the addresses of {', '.join(KNOWN)}, not of {name!r}: leave it out.")
    options = options or Options(raw=out / "raw" / name)
    check_prepared(out / name)
    found = download_raw_files(name, known.needs, options.raw, say, read_pickle)
    form = form or found.pop("form", None)
    given = {key: value for key, value in vars(options).items() if value is not None}
    return prepare(name, Options(**{**found, **given}), out, form=form, check_counts=check_counts)


def prepare(
    name: str, options: Options, out: Path, *, form: str | None = None, check_counts: bool = True
) -> dict[str, Any]:
    """Convert, check and write `<out>/<name>/`, and return its manifest (prepared.json).

    Raises:
        ConfigError: the name, the form or an option is not allowed.
        DataError: a raw file is missing, malformed or empty, or the counts differ from the published ones.
        TargetError: the target folder was not made here.
    """
    _check_name(name)
    known = KNOWN.get(name)
    form = _form(name, known, form)
    check_options(form, options)
    if known is not None and form == known.form:
        options = _with_defaults(options, known)
    check_prepared(out / name)
    converted = FORMS[form].convert(options)
    if len(converted.inter) == 0:
        raise DataError(f"No interaction of {name} is left: the raw file is empty or the filters drop every row.")
    counts = _counts(converted)
    if check_counts and known is not None and form == known.form:
        _check_counts(name, counts, known.published)
    manifest: dict[str, Any] = {
        "format_version": 1,
        "name": name,
        "form": form,
        "settings": converted.settings,
        "split": converted.split_rule,
        "sources": {path.name: file_sha256(path) for path in converted.sources},
        "counts": counts,
    }
    with new_folder(out / name, converted.sources) as folder:
        manifest["files"] = _write(name, converted, folder)
        write_manifest(folder, manifest)
    return manifest


def summary(manifest: Mapping[str, Any]) -> str:
    """Return the counts as a small table, one line per part."""
    lines = [f"{manifest['name']:<14}{'users':>12}{'items':>12}{'interactions':>15}"]
    for part, counts in manifest["counts"].items():
        lines.append(f"{part:<14}{counts['users']:>12,}{counts['items']:>12,}{counts['interactions']:>15,}")
    known = KNOWN.get(manifest["name"])
    if known is not None and known.reported:
        lines.append(known.reported)
    return "\n".join(lines)


def _counts(converted: Converted) -> Counts:
    parts = {part: converted.inter.take(mask).counts() for part, mask in converted.parts.items()}
    return {"all": converted.inter.counts(), **parts}


def _check_counts(name: str, counts: Counts, published: Mapping[str, int]) -> None:
    for what, expected in published.items():
        found = counts["all"][what] if what in counts["all"] else counts[what]["interactions"]
        if found != expected:
            label = what if what in counts["all"] else f"{what} interactions"
            raise DataError(
                f"{name} has {found:,} {label}, but the published data has {expected:,}: "
                "check the raw files, or add --expect=none to accept them."
            )


def _write(name: str, converted: Converted, folder: Path) -> dict[str, str]:
    """Write every file of the data set and return each file's SHA-256."""
    write_inter(folder / f"{name}.inter", converted.inter)
    for part, mask in converted.parts.items():
        write_inter(folder / f"{name}.{part}.inter", converted.inter.take(mask))
    if converted.attributes is not None:
        write_item(folder / f"{name}.item", converted.attributes, converted.attributes_name)
    for modality, matrix in converted.features.items():
        write_matrix(folder / f"{name}.{modality}.npy", matrix)
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}


def _check_name(name: str) -> None:
    if name == "ml-100k":
        raise ConfigError("RecBole always reads ml-100k from its own package: give this data set another name.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ConfigError(f"{name!r} cannot name a data set: use letters, digits, '_', '-' and '.'.")


def _form(name: str, known: Known | None, form: str | None) -> str:
    if form is None and known is None:
        raise ConfigError(
            f"{name!r} is not one of {', '.join(KNOWN)}{close_match(name, KNOWN)}: "
            f"for your own data add --form=, one of {', '.join(FORMS)}."
        )
    chosen = form or (known.form if known else "")
    if chosen not in FORMS:
        raise ConfigError(f"--form={chosen} is unknown{close_match(chosen, FORMS)}: use one of {', '.join(FORMS)}.")
    return chosen


def _with_defaults(options: Options, known: Known) -> Options:
    """Fill in the file names of a known data set.

    Its attributes are added only with its own file, and only if they exist.
    """
    attributes = options.attributes
    if known.attributes and options.file is None and (options.raw / known.attributes).is_file():
        attributes = attributes or known.attributes
    return replace(options, file=options.file or known.file, attributes=attributes)
