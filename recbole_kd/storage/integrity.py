"""SHA-256 checks of written files: a file that changed on disk is never used silently."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_kd.storage.digests import file_sha256

SEAL = b"recbole_kd sha256 "
"""Marker before the digest at the end of a sealed file."""
OWN_SHA256 = "sha256"
"""Key of a manifest's or report's own digest."""
SAMPLE = 1 << 20
"""Bytes of one block of a large file."""
WHOLE = 64 * SAMPLE
"""Largest file that is hashed completely; of a larger one this many bytes are hashed, in evenly spaced blocks."""


def sample_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's sample.

    The sample is the whole file up to WHOLE bytes, else WHOLE bytes in evenly spaced blocks. These include the first
    block, which holds a safetensors header, and the last one. At most WHOLE bytes are read, whatever the file's size.
    """
    size = path.stat().st_size
    if size <= WHOLE:
        return file_sha256(path)
    sha, n = hashlib.sha256(), WHOLE // SAMPLE
    with open(path, "rb") as stream:
        for number in range(n):
            stream.seek((size - SAMPLE) * number // (n - 1))
            sha.update(stream.read(SAMPLE))
    return sha.hexdigest()


def records_of(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return a manifest's records of its files: name -> ``size``, ``sha256``, ``sample``.

    Only files larger than WHOLE have a ``sample``.
    """
    found = {}
    for path in sorted(paths):
        size = path.stat().st_size
        sample = {"sample": sample_sha256(path)} if size > WHOLE else {}
        found[path.name] = {"size": size, "sha256": file_sha256(path), **sample}
    return found


def damage(folder: Path, records: Mapping[str, Any], full: bool = False) -> str | None:
    """Return what is wrong with the files of a folder, in a few words, or None.

    Args:
        records: records from :func:`records_of`. full: read large files completely, not only the sample.
    """
    for name, record in records.items():
        if not isinstance(record, Mapping) or not {"size", "sha256"} <= record.keys() or Path(name).name != name:
            return f"the record of {name} is malformed"
        path = folder / name
        if path.is_symlink() or not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != record["size"]:
            return f"{name} has {size} bytes, not {record['size']}"
        sampled = "sample" in record and not full
        found = sample_sha256(path) if sampled else file_sha256(path)
        if found != record["sample" if sampled else "sha256"]:
            return f"{name} is not what was written (its SHA-256 differs)"
    return None


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping as plain JSON values, with the SHA-256 of the rest under ``sha256``."""
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    plain.pop(OWN_SHA256, None)
    return {**plain, OWN_SHA256: _json_sha256(plain)}


def is_changed(content: Mapping[str, Any]) -> bool:
    """Test whether a sealed mapping has changed; one of an earlier version has no seal."""
    rest = {key: value for key, value in content.items() if key != OWN_SHA256}
    return OWN_SHA256 in content and content[OWN_SHA256] != _json_sha256(rest)


def unsealed(content: Any) -> dict[str, Any]:
    """Return a mapping of a file without its seal, which a file of an earlier version lacks.

    Raises:
        ValueError: it has changed since it was sealed, or is no mapping.
    """
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} in place of a mapping")
    if is_changed(content):
        raise ValueError("its SHA-256 differs")
    return {key: value for key, value in content.items() if key != OWN_SHA256}


def _json_sha256(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def say_unchecked(folder: Path, mend: str) -> None:
    """Warn that a folder of an earlier version has no digests, so its files cannot be checked.

    Args:
        mend: a sentence with the command that adds digests.
    """
    getLogger().warning(
        f"{folder} was written by an earlier version, without digests: whether its files are what was written cannot "
        f"be checked. {mend}"
    )


def seal(path: Path) -> None:
    """Append the SHA-256 of a file to it; ``torch.load`` still reads the file."""
    digest = file_sha256(path)
    with open(path, "ab") as stream:
        stream.write(SEAL + bytes.fromhex(digest))
        stream.flush()
        os.fsync(stream.fileno())


def is_sealed(path: Path) -> bool:
    """Test whether a file ends with the SHA-256 of all before it."""
    end = len(SEAL) + hashlib.sha256().digest_size
    left = path.stat().st_size - end
    if left < 0:
        return False
    sha = hashlib.sha256()
    with open(path, "rb") as stream:
        while left and (part := stream.read(min(left, SAMPLE))):
            sha.update(part)
            left -= len(part)
        return stream.read() == SEAL + sha.digest()
