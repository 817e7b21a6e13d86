"""SHA-256 digests of bytes, settings and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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


def file_digest(*paths: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the files' contents, in order."""
    sha = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
