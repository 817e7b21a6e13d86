"""SHA-256 digests of bytes, settings and files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any


def digest(*parts: bytes) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the parts."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()[:16]


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return the digest of a mapping of plain values; the order of keys does not matter."""
    return digest(json.dumps(settings, sort_keys=True, default=str).encode())


def opened(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file for reading; a pipe in its place would be waited for without end.

    Raises:
        OSError: the path is missing, a folder, a pipe or a device.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "It is a pipe or a device, not a file", os.fspath(path))
    return open(path, "rb")


def file_digest(*paths: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the files' contents, in order."""
    sha = hashlib.sha256()
    for path in paths:
        with opened(path) as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal digits."""
    with opened(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
