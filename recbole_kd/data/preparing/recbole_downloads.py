"""Data sets that RecBole has addresses of, downloaded as RecBole does: a zip archive of atomic files."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path, PurePosixPath

import yaml

from recbole_kd.data.preparing.zip_archives import extract, members_of
from recbole_kd.errors import DownloadError
from recbole_kd.storage.download import RemoteFile, Say, download
from recbole_kd.storage.files import written_whole

SUFFIXES = (".inter", ".user", ".item", ".net", ".kg", ".link")
"""Kinds of atomic files."""

ASKS = 1 << 30
"""Bytes above which RecBole asks first; here the user says so by ``--download=True``."""


@cache
def recbole_addresses() -> dict[str, str]:
    """Return RecBole's own table of data sets: name -> address of a zip archive."""
    text = (files("recbole") / "properties" / "dataset" / "url.yaml").read_text(encoding="utf-8")
    return {str(name): str(address) for name, address in yaml.safe_load(text).items()}


def download_atomic_files(name: str, address: str, folder: Path, say: Say, *, any_size: bool) -> None:
    """Download a data set's archive of atomic files into its folder, which gets all of them or none.

    The archive is kept beside the folder, hidden, until it is unpacked, so that a broken download continues.

    Args:
        name: the data set; its files get this name, as RecBole renames them.
        address: of the archive.
        folder: missing or empty.
        say: shows a line.
        any_size: also download archives over 1 GiB.

    Raises:
        DownloadError: it cannot be downloaded, is too large, or has no interactions.
        TargetError: the folder holds something.
    """
    archive = RemoteFile(PurePosixPath(address).name, address)
    with written_whole(folder) as new:
        place = folder.parent / f".{name}.download"
        path = download(archive, place, say, limit=None if any_size else ASKS)
        old = Path(archive.name).stem
        found = [PurePosixPath(member).name for member in members_of(path)]
        members = {file: file.replace(old, name) for file in found if file.endswith(SUFFIXES) and file.startswith(old)}
        if f"{name}.inter" not in members.values():
            raise DownloadError(f"{address} has no {old}.inter: it has {', '.join(found[:5])}.")
        extract(path, members, new)
    path.unlink()
    for leftover in place.glob(f".{archive.name}.lock"):
        leftover.unlink()
    place.rmdir()
