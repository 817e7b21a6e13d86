"""Shared parts of the campaigns: a home with a user's own files, whole runs in it, and a record.

The record says what was tried and what held.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from recbole_kd.cli.program import main
from tests.support.forked import Ending, Job, forked
from tests.support.helpers import write_tiny
from tests.support.runs import words

REPORT = "RECBOLE_KD_CAMPAIGN"
"""Environment variable with the path of the JSON summary, if one is wanted."""

FIGURES = (
    "valid",
    "test",
    "epochs",
    "best_epoch",
    "stopped_by",
    "kd_loss",
    "history",
    "parameters",
    "trajectory",
    "fidelity",
)
"""Of a stage in result.json, what every run must come to; times and paths are left out."""


class Record:
    """Counts of trials by kind, and the trials that did not hold.

    Args:
        folder: of homes, emptied for each trial.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kinds: dict[str, dict[str, Any]] = {}
        """Kind -> ``tried``, ``cpu_seconds`` and ``not_held``, its trials that did not hold."""
        self._last = _cpu_seconds()

    def note(self, kind: str, label: str, problem: str | None) -> None:
        """Count one trial; print what did not hold."""
        found = self.kinds.setdefault(kind, {"tried": 0, "cpu_seconds": 0.0, "not_held": []})
        now = _cpu_seconds()
        found["cpu_seconds"] += now - self._last
        self._last = now
        found["tried"] += 1
        if problem is not None:
            found["not_held"].append(f"{label}: {problem}")
            print(f"NOT HELD {kind} | {label} | {problem}", flush=True)

    def check(self, *kinds: str) -> None:
        """Fail if anything of these kinds did not hold or nothing was tried."""
        for kind in kinds:
            assert self.kinds.get(kind), kind
        assert not [line for kind in kinds for line in self.kinds[kind]["not_held"]]


def _cpu_seconds() -> float:
    """Return the CPU time of this process and its ended children, on which other load has no effect."""
    return sum(os.times()[:4])


def merged(parts: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the kinds of several records, one per process, as one."""
    whole: dict[str, dict[str, Any]] = {}
    for kind, found in (pair for part in parts for pair in part.items()):
        before = whole.get(kind, {"tried": 0, "cpu_seconds": 0.0, "not_held": []})
        whole[kind] = {key: before[key] + found[key] for key in before}
    return dict(sorted(whole.items()))


def write_summary(path: Path, kinds: Mapping[str, Mapping[str, Any]], seconds: float) -> None:
    """Write what was tried and held as JSON, with date and machine."""
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    content = {"date": time.strftime("%Y-%m-%d"), "machine": machine, "seconds": round(seconds), "kinds": kinds}
    path.write_text(json.dumps(content, indent=2))


class Home:
    """A folder with data, cache and output, and a user's own files, which must survive."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.cache, self.saved = folder / "cache", folder / "saved"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._own: dict[Path, str] = {}
        for place in (self.cache / "teacher", self.cache / "distilled", self.cache / "student", self.saved):
            place.mkdir(parents=True, exist_ok=True)
            self.plant(place / "my-notes.txt")

    def plant(self, path: Path) -> None:
        """Write a file of the user's own."""
        path.write_text(f"the user's own {path.name}")
        self._own[path] = path.read_text()

    def words(self, *more: str, **changes: str | None) -> list[str]:
        """Return the words of the main job in this home; a key ``a.b`` is written ``a__b``."""
        named = {"data_path": str(self.data), **{key.replace("__", "."): value for key, value in changes.items()}}
        return [*words(self.folder, **named), *more]

    def run(self, given: list[str], job: Job | None = None, **how: Any) -> Ending:
        """Run the program with these words, or another job, in a forked child."""
        return forked(job or main, given, self.folder / "here", **how)

    def lost(self) -> str | None:
        """Return which of the user's own files is gone or changed, None if none is."""
        gone = [path for path, text in self._own.items() if not path.is_file() or path.read_text() != text]
        return f"the user's file {gone[0]} is lost" if gone else None

    def figures(self) -> dict[str, Any] | None:
        """Return the figures of the newest result, None where there is none."""
        found = sorted(self.saved.glob("*/result.json"), key=lambda path: path.stat().st_mtime_ns)
        return figures_of(json.loads(found[-1].read_text())) if found else None


def figures_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a result must be the same whenever the same is asked."""
    found = {}
    for stage in ("teacher", "student", "assistant", "distilled"):
        part = result.get(stage)
        for place, stage_part in enumerate([part, *part.get("members", [])] if part else []):
            found[f"{stage} {place}"] = {key: stage_part[key] for key in FIGURES if key in stage_part}
    return found


def goes_on(home: Home, given: list[str], ending: Ending, wanted: object, *codes: int) -> str | None:
    """Return what does not hold of an ending and of the run that continues after it."""
    problem = ending.problem(*codes) or home.lost()
    last = home.run([*given, "--resume=True"])
    problem = problem or last.problem() or home.lost()
    problem = problem or (f"cannot be continued: {last.errors}" if last.code else None)
    return problem or ("other figures when continued" if home.figures() != wanted else None)


def leftovers(cache: Path) -> list[str]:
    """Return what a finished run must not leave in the cache: workshops, states, half-written files."""
    return [
        str(path.relative_to(cache))
        for path in cache.rglob("*")
        if path.suffix != ".lock" and (path.name.startswith(".") or ".work" in path.name or ".pt" in path.name)
    ]


def contents(folder: Path, but: Callable[[Path], bool] = lambda path: False) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder; locks and files that ``but`` names are left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock" and not but(path))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_data(folder: Path) -> Path:
    """Write the data sets of the campaign and return their folder.

    They are ``tiny`` and ``worded`` (with words of its items).
    """
    write_tiny(folder, "tiny")
    write_tiny(folder, "worded")
    lines = ["item_id:token\tclass:token_seq", *(f"i{item}\tcolour{item % 2} mod{item % 5} all" for item in range(40))]
    (folder / "worded" / "worded.item").write_text("\n".join(lines) + "\n")
    return folder
