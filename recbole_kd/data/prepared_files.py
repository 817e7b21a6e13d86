"""Check that a prepared data set is still what ``prepare`` wrote, before a run reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_kd.data.preparing.atomic_writer import MANIFEST
from recbole_kd.data.preparing.prepare import prepare_command
from recbole_kd.errors import DataError
from recbole_kd.storage.integrity import file_sha256


def check_prepared_files(folder: Path) -> None:
    """Check that a prepared data set still matches its ``prepared.json``.

    Every listed file is read once as a whole, at about 1 GB/s; RecBole's reading of it takes many times as long. A
    folder without ``prepared.json`` is a user's own and is not checked.

    Args:
        folder: folder of the data set, such as ``dataset/citeulike``.

    Raises:
        DataError: a file is missing or differs; the message names it and the command that prepares the data set again.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = dict(manifest["files"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(
            f"{path} is damaged: prepare the data set again with `recbole-kd prepare {folder.name} --raw=<folder of "
            f"its raw files> --out={folder.parent}` after you moved {folder} away, or delete {path} if the files are "
            "your own"
        ) from None
    for name, digest in sorted(files.items()):
        file = folder / name
        if file.is_file() and file_sha256(file) == digest:
            continue
        what = "is not what prepare wrote (its SHA-256 differs)" if file.is_file() else "is missing"
        raise DataError(
            f"{file} {what}: run `{_command(folder, manifest)}` again, or delete {path} if the change is your own"
        )


def _command(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Return the command line that prepares the data set as its manifest says."""
    name, form = str(manifest.get("name", folder.name)), manifest.get("form")
    known = prepare_command(name)
    if known is not None:
        return known.replace("--out=dataset/", f"--out={folder.parent}")
    sources = manifest.get("sources")
    needed = ", ".join(sources) if isinstance(sources, dict) and sources else "its raw files"
    return f"recbole-kd prepare {name} --form={form} --raw=<folder with {needed}> --out={folder.parent}"
