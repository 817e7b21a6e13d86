"""Published raw files of the known data sets: where they are, and how they are downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_kd.config.property_layers import properties_dir, read_yaml
from recbole_kd.data.preparing.pickled_matrices import ReadPickle, write_lists
from recbole_kd.data.preparing.zip_archives import extract
from recbole_kd.errors import ConfigError, DownloadError
from recbole_kd.storage.download import RemoteFile, Say, download

SOURCES = "downloads.yaml"
"""Property file with all addresses; its first lines say what its keys mean."""

_DIGESTS = ("size", "sha256", "git_sha1")


@dataclass(frozen=True)
class Published:
    """The publication of a data set: addresses, digests and licence.

    Attributes:
        page: address of the publisher's page. licence: what it states.
        files: files to download. archives: zip files to download, with local names of members.
        matrices: local name of a pickled matrix -> JSON file that is made of it.
        by_hand: whether a person has to download it.
        prepare: options of its preparation.
    """

    page: str
    licence: str
    files: tuple[RemoteFile, ...] = ()
    archives: tuple[tuple[RemoteFile, Mapping[str, str]], ...] = ()
    matrices: Mapping[str, str] = field(default_factory=dict)
    by_hand: bool = False
    prepare: Mapping[str, Any] = field(default_factory=dict)


def published(name: str, sources: Path | None = None) -> Published:
    """Return where a known data set is published.

    Args:
        name: the data set.
        sources: file of addresses. If None, that of recbole_kd.

    Raises:
        ConfigError: no address is known.
    """
    path = properties_dir() / SOURCES if sources is None else sources
    entry = dict(read_yaml(path).get(name) or {})
    if not entry:
        raise ConfigError(f"--download has no effect on {name}: {path.name} has no address of it. Leave it out.")
    base = entry.pop("base", "")
    files = tuple(_remote(path, base, *item) for item in entry.pop("files", {}).items())
    archives = tuple(
        (_remote(path, base, name, given, needs_digest=False), dict(given["members"]))
        for name, given in entry.pop("archives", {}).items()
    )
    return Published(files=files, archives=archives, **entry)


def _remote(path: Path, base: str, name: str, given: Mapping[str, Any], *, needs_digest: bool = True) -> RemoteFile:
    if needs_digest and not {"sha256", "git_sha1"} & set(given):
        raise ConfigError(f"{path}: {name} has no digest, so a damaged download would not be noticed")
    return RemoteFile(name, given.get("address", base + name), **{key: given[key] for key in _DIGESTS if key in given})


def download_raw_files(
    name: str, needs: str, folder: Path, say: Say, read_pickle: ReadPickle, sources: Path | None = None
) -> dict[str, Any]:
    """Download the raw files of a data set into a folder, and return options of its preparation.

    Files that are there already are checked and kept.

    Args:
        name: the data set.
        needs: the files in words, for an error.
        folder: made if it is missing.
        say: shows a line.
        read_pickle: see :data:`recbole_kd.data.preparing.pickled_matrices.ReadPickle`.
        sources: see :func:`published`.

    Raises:
        DownloadError: a file cannot be downloaded, or is not what was published. One sentence.
        ConfigError: no address is known.
    """
    found = published(name, sources)
    if found.by_hand:
        raise DownloadError(
            f"{name} is published in a shared folder, which a program cannot list: open {found.page}, save {needs} in "
            f"a folder, and run `recbole-kd prepare {name} --raw=<that folder>`."
        )
    names = ", ".join(file.name for file in (*found.files, *(archive for archive, _ in found.archives)))
    say(f"{name} is published at {found.page} (licence: {found.licence})")
    try:
        for file in found.files:
            download(file, folder, say)
        for archive, members in found.archives:
            there = [name for name in members.values() if (folder / name).is_file()]
            for kept in there:
                say(f"{folder / kept} is already there and taken as it is")
            if len(there) < len(members):
                extract(download(archive, folder, say), members, folder)
    except DownloadError as error:
        by_hand = f"Or by hand: save {names} from {found.page} in {folder}, and run the same command again"
        raise DownloadError(f"{error} {by_hand}.") from None
    for pickled, target in found.matrices.items():
        write_lists(folder / pickled, folder / target, read_pickle)
    return dict(found.prepare)
