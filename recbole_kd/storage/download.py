"""Downloads of single files: resumed after a break, checked, and complete or not there at all."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

from recbole_kd.errors import DownloadError
from recbole_kd.storage.disk_full import full_disk_is_said

ATTEMPTS = 5
"""Attempts without a new byte after which a download ends."""

CONNECT_SECONDS = 20.0
READ_SECONDS = 60.0
"""Seconds without an answer, or without a new byte, after which a connection counts as broken."""

Say = Callable[[str], object]
"""Shows a line."""

_CHUNK = 1 << 13  # a chunk that a break cuts is asked for again
_TOTAL = re.compile(r"bytes (\d+)-\d+/(\d+)$")


@dataclass(frozen=True)
class RemoteFile:
    """A published file and what is known of it.

    Attributes:
        name: name of the local file.
        address: URL.
        size: bytes, None if unknown.
        sha256: SHA-256 of the content in hexadecimal digits, None if unknown.
        git_sha1: name of the content in a Git repository, the SHA-1 of ``blob SIZE\\0`` and the content.
    """

    name: str
    address: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def host(self) -> str:
        """The server's name."""
        return urlsplit(self.address).netloc


class _BrokenError(Exception):
    """A transfer that ended early; what arrived is kept and the next attempt continues it."""


def download(
    file: RemoteFile,
    folder: Path,
    say: Say,
    *,
    read_seconds: float = READ_SECONDS,
    pause: float = 1.0,
    limit: int | None = None,
) -> Path:
    """Return the path of a file in a folder, after downloading it if it is not there.

    What arrives is written to a hidden ``.part`` file, which a later call continues (HTTP Range). Only a file of the
    right size and digest gets its name; an existing file is checked and never overwritten.

    Args:
        file: the file.
        folder: made if it is missing.
        say: shows a line.
        read_seconds: see :data:`READ_SECONDS`.
        pause: seconds before the second attempt, doubled for each further one.
        limit: largest number of bytes to download; None for any.

    Raises:
        DownloadError: no connection, an answer such as 404, another size or digest than published, a file of that name
            with other content, or a size over the limit. One sentence.
        StorageError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    lock = FileLock(folder / f".{file.name}.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        raise DownloadError(f"Another run is downloading {target} right now: wait until it is done.") from None
    with held:
        if os.path.lexists(target):
            return _existing(target, file, say)
        end = "free some and run the same command again, which continues the download"
        with full_disk_is_said(folder, end):
            part = folder / f".{file.name}.{hashlib.sha256(file.address.encode()).hexdigest()[:8]}.part"
            say(f"downloading {file.name} from {file.address}")
            _complete(file, part, read_seconds, pause, limit)
            wrong = difference(part, file)
            if wrong is not None:
                part.unlink()
                raise DownloadError(f"{file.address} is not the file that was published: {wrong}. Nothing was kept.")
            os.replace(part, target)
    return target


def difference(path: Path, file: RemoteFile) -> str | None:
    """Return how a local file differs from the published one, None if it does not."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"it has {size:,} bytes instead of {file.size:,}"
    for kind, expected, start in (
        ("SHA-256", file.sha256, hashlib.sha256()),
        ("Git SHA-1", file.git_sha1, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)),
    ):
        if expected is not None:
            with open(path, "rb") as stream:
                for chunk in iter(lambda: stream.read(_CHUNK), b""):
                    start.update(chunk)
            if start.hexdigest() != expected:
                return f"its {kind} is {start.hexdigest()} instead of {expected}"
    return None


def _existing(target: Path, file: RemoteFile, say: Say) -> Path:
    wrong = difference(target, file) if target.is_file() else "it is not a file"
    if wrong is not None:
        raise DownloadError(
            f"{target} is there, but it is not the published file ({wrong}): move it away and run again, or prepare "
            "your own files without --download."
        )
    say(f"{target} is already there")
    return target


def _complete(file: RemoteFile, part: Path, read_seconds: float, pause: float, limit: int | None) -> None:
    """Continue the part file until it is complete."""
    failures, answered = 0, False
    while True:
        before = _size(part)
        if file.size is not None and before >= file.size:
            return  # a larger one fails the check of its size
        try:
            _transfer(file, part, read_seconds, limit)
            return
        except (_BrokenError, requests.RequestException) as error:
            answered = answered or isinstance(error, _BrokenError | requests.ReadTimeout)
            failures = 1 if _size(part) > before else failures + 1
            reason = _reason(error)
        if not answered:
            raise DownloadError(f"There is no connection to {file.host} ({reason}).")
        if failures >= ATTEMPTS:
            raise DownloadError(
                f"The download of {file.address} broke off {ATTEMPTS} times ({reason}): the same command continues it "
                f"from byte {_size(part):,}."
            )
        time.sleep(pause * 2 ** (failures - 1))


def _transfer(file: RemoteFile, part: Path, read_seconds: float, limit: int | None) -> None:
    """Append what the part file lacks, in one request."""
    offset = _size(part)
    # identity: sizes and ranges are those of the file, not of a compressed copy
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
    with requests.get(file.address, headers=headers, stream=True, timeout=(CONNECT_SECONDS, read_seconds)) as answer:
        if answer.status_code == 416:  # the part is longer than the file, or complete without a known size
            part.unlink()
            raise _BrokenError("the server has no byte to add")
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise _BrokenError(f"the server answers {answer.status_code} {answer.reason}")
        if answer.status_code not in (200, 206):
            raise DownloadError(
                f"{file.address} cannot be downloaded: the server answers {answer.status_code} {answer.reason}."
            )
        start, total = _range_of(answer, offset)
        _check_size(file, total, limit)
        with open(part, "ab" if start else "wb") as stream, _bar(file, start, total) as bar:
            for chunk in _chunks(answer):
                stream.write(chunk)
                bar.update(len(chunk))
                _check_size(file, max(stream.tell(), file.size or 0), limit)
    if total is not None and _size(part) < total:
        raise _BrokenError(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _chunks(answer: requests.Response) -> Iterator[bytes]:
    try:
        yield from answer.iter_content(_CHUNK)
    except requests.RequestException as error:
        raise _BrokenError(_reason(error)) from error


def _range_of(answer: requests.Response, offset: int) -> tuple[int, int | None]:
    """Return the first byte of an answer, and the size of the whole file if it is said."""
    found = _TOTAL.match(answer.headers.get("Content-Range", "")) if answer.status_code == 206 else None
    if answer.status_code == 206:
        if found is None or int(found[1]) != offset:
            raise DownloadError(f"{answer.url} answers with another part of the file than was asked for.")
        return offset, int(found[2])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _check_size(file: RemoteFile, total: int | None, limit: int | None) -> None:
    if total is None:
        return
    if file.size is not None and total != file.size:
        raise DownloadError(
            f"{file.address} is not the file that was published: it has {total:,} bytes instead of {file.size:,}."
        )
    if limit is not None and total > limit:
        raise DownloadError(f"{file.address} has {total / 1e9:.1f} GB.")


def _bar(file: RemoteFile, start: int, total: int | None) -> tqdm:
    return tqdm(total=total or file.size, initial=start, desc=file.name, unit="B", unit_scale=True, disable=None)


def _reason(error: Exception) -> str:
    if isinstance(error, _BrokenError):
        return str(error)
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection ended early"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "no answer came in time"
    inner = getattr(error.args[0], "reason", None) if error.args else None
    words = " ".join(str(inner or error).split())
    return (words.partition("): ")[2] or words)[:200]  # the object that failed stands before its reason


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
