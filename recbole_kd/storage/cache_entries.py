"""List, verify and prune the cache: the entries, their sizes, ages and integrity."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recbole_kd.storage.cache import WORK
from recbole_kd.storage.files import FILES, MANIFEST
from recbole_kd.storage.integrity import damage, is_changed

REPORT = "report.json"
"""Name of a cached student's manifest."""
KINDS = ("teacher", "trained", "student", "assistant", "features", "distilled")
"""Folders of the cache.

``teacher`` has exported scores, ``trained`` the weights behind them; ``distilled`` has only the states of interrupted
distillations.
"""


@dataclass(frozen=True)
class CacheEntry:
    """One finished or unfinished model in the cache.

    Attributes:
        kind: one of KINDS. path: its folder (finished), its work folder or its state file (unfinished).
        finished: False for an interrupted training, which ``--resume=True`` continues.
        size: bytes on disk. age: seconds since it was last written.
        made_by: model, data set and the settings that tell entries apart, as text.
        has_digests: False for a finished entry of an earlier version, which cannot be verified.
    """

    kind: str
    path: Path
    finished: bool
    size: int
    age: float
    made_by: str
    has_digests: bool = True

    @property
    def name(self) -> str:
        """The entry's path below the cache, such as ``teacher/ml-100k-MF-0123456789abcdef``."""
        return f"{self.kind}/{self.path.name}"


def list_cache(cache: Path) -> list[CacheEntry]:
    """Return the entries of a cache, largest first; none if the folder does not exist.

    Files with other names are not part of the cache and not listed.
    """
    return sorted(_entries(cache), key=lambda entry: (-entry.size, entry.name))


def _entries(cache: Path) -> Iterator[CacheEntry]:
    now = time.time()
    for kind in KINDS:
        for path in sorted((cache / kind).glob("*")) if (cache / kind).is_dir() else ():
            if path.is_symlink() or path.name.startswith("."):
                continue
            manifest = _manifest(path) if path.is_dir() else None
            unfinished = path.name.endswith(WORK) if path.is_dir() else kind == "distilled" and path.suffix == ".pt"
            if manifest is None and not unfinished:
                continue
            files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else _of_state(path)
            stats = [file.stat() for file in files] or [path.stat()]
            age = now - max(stat.st_mtime for stat in stats)
            size, has_digests = sum(stat.st_size for stat in stats), not manifest or FILES in manifest
            yield CacheEntry(kind, path, manifest is not None, size, age, _made_by(path, manifest), has_digests)


def _of_state(path: Path) -> list[Path]:
    """Return a state file and the copies of the best checkpoint beside it."""
    return [path, *(file for file in path.parent.iterdir() if file.name.startswith(f"{path.name}.best-"))]


def _manifest(folder: Path) -> Mapping[str, Any] | None:
    """Return the manifest of a finished entry: empty if damaged, None if there is none."""
    path = next((folder / name for name in (MANIFEST, REPORT) if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _made_by(path: Path, manifest: Mapping[str, Any] | None) -> str:
    if manifest is None:
        return "an interrupted training"
    settings = manifest.get("settings")
    known = {**settings, **manifest} if isinstance(settings, dict) else dict(manifest)
    words = [str(known[key]) for key in ("model", "dataset", "encoder") if isinstance(known.get(key), str)]
    words += [
        f"{key}={known[key]}"
        for key in ("seed", "embedding_size", "store", "dtype", "svd", "trajectory")
        if known.get(key) is not None
    ]
    return " ".join(words) or "an earlier version"


def entry_damage(folder: Path, full: bool = False) -> str | None:
    """Return what is wrong with a finished entry, in a few words, or None.

    Args:
        full: read files larger than 64 MiB completely, not only a sample of 64 MiB.
    """
    manifest = _manifest(folder)
    if manifest is None:
        return "it has no manifest"
    if not manifest:
        return "its manifest cannot be read"
    if is_changed(manifest):
        return "its manifest is not what was written (its SHA-256 differs)"
    files = manifest.get(FILES)
    if files is None:
        return None  # an earlier version, which stored no digests
    return damage(folder, files, full) if isinstance(files, dict) else "its manifest is malformed"


def verify_cache(cache: Path, names: Iterable[str] | None = None, full: bool = True) -> dict[str, str]:
    """Return the damaged entries of a cache: name -> what is wrong.

    Args:
        names: names as in :attr:`CacheEntry.name`; None means all entries.
        full: read large files completely, not only a sample.
    """
    wanted = None if names is None else set(names)
    chosen = (entry for entry in list_cache(cache) if entry.finished and (wanted is None or entry.name in wanted))
    found = {entry.name: entry_damage(entry.path, full) for entry in chosen}
    return {name: words for name, words in found.items() if words is not None}


def prune_cache(cache: Path, names: Iterable[str], dry_run: bool = False) -> list[CacheEntry]:
    """Remove entries by name and return the removed ones.

    Only the files listed in an entry's manifest, the manifest, work folders and states are removed. An entry that
    another run holds stays, and so does one with any other file.

    Args:
        names: names as in :attr:`CacheEntry.name`. dry_run: remove nothing; return the entries that would be removed.
    """
    wanted = set(names)
    return [
        entry
        for entry in list_cache(cache)
        if entry.name in wanted and _removable(entry) and (dry_run or _removed(entry))
    ]


def _removable(entry: CacheEntry) -> bool:
    """Test whether an entry has only the files that its manifest lists.

    Entries of earlier versions list no files; their files are recognised by their names.
    """
    if not entry.finished:
        return True
    manifest = _manifest(entry.path) or {}
    listed = manifest.get(FILES)
    for path in entry.path.iterdir():
        known = path.name in listed if isinstance(listed, dict) else path.suffix in (".safetensors", ".npy", ".ids")
        if path.is_symlink() or not path.is_file() or not (known or path.name in (MANIFEST, REPORT)):
            return False
    return True


def _removed(entry: CacheEntry) -> bool:
    """Remove an entry under its lock; False if another run holds it."""
    name = entry.path.name.removesuffix(WORK) if not entry.finished and entry.path.is_dir() else entry.path.name
    lock = FileLock(str(entry.path.with_name(name.removesuffix(".pt") if entry.path.is_file() else name)) + ".lock")
    try:
        with lock.acquire(timeout=0):
            if entry.path.is_dir():
                shutil.rmtree(entry.path)
            else:
                for file in _of_state(entry.path):
                    file.unlink(missing_ok=True)
    except Timeout:
        return False
    return True
