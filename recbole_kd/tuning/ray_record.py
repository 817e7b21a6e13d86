"""The record of a Ray study in JSON, one file per trial.

A study is resumed from it. Pickles that Ray wrote are never read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recbole_kd.errors import ConfigError
from recbole_kd.storage.digests import settings_digest
from recbole_kd.storage.files import write_json
from recbole_kd.storage.integrity import sealed, unsealed
from recbole_kd.storage.json_files import read_json
from recbole_kd.tuning.study import Trial, as_json

FOLDER = "record"
"""Folder of the record in the folder of the study."""

FINAL = ("done", "stopped", "failed")
"""States of a trial that is not run again."""


@dataclass
class Recorded:
    """One trial in its current state.

    Attributes:
        number: position in the order in which trials began.
        drawn: the values of the search, by parameter.
        trial: settings, state and metrics.
        curve: the objective of each epoch so far.
    """

    number: int
    drawn: dict[str, Any]
    trial: Trial
    curve: list[float] = field(default_factory=list)

    @property
    def is_final(self) -> bool:
        return self.trial.state in FINAL


class StudyRecord:
    """The trials of a study by the digest of their settings, saved after every epoch.

    Args:
        folder: folder of the study.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self.trials: dict[str, Recorded] = {}

    def read(self) -> None:
        """Read the record of an interrupted search.

        Raises:
            ConfigError: a file is damaged.
        """
        found = [(path.stem, _read(path)) for path in sorted(self._folder.glob("*.json"))]
        for digest, recorded in found:
            if settings_digest(recorded.trial.settings) != digest:
                raise _damaged(self._folder / f"{digest}.json", "its settings differ from those of its name")
        self.trials = dict(sorted(found, key=lambda item: item[1].number))

    def note(self, drawn: Mapping[str, Any], trial: Trial, objective: float | None = None) -> None:
        """Record the current state of a trial. A final trial does not change.

        Args:
            drawn: the values of the search.
            trial: the current state.
            objective: objective of the epoch that ``trial.epochs`` counts, if one has just ended.
        """
        digest = settings_digest(trial.settings)
        before = self.trials.get(digest)
        if before is not None and before.is_final:
            return
        recorded = before or Recorded(len(self.trials), as_json(dict(drawn)), trial)
        if objective is not None:
            done = max(trial.epochs - 1, 0)
            if recorded.curve[done : done + 1] == [objective]:
                return  # a resumed study reports this epoch again, and later epochs stay
            recorded.curve = [*recorded.curve[:done], objective]
        recorded.trial = trial
        self.trials[digest] = recorded
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._folder / f"{digest}.json", sealed(asdict(recorded)))

    def of(self, settings: Mapping[str, Any]) -> Recorded | None:
        """Return the trial with these settings, if it has begun."""
        return self.trials.get(settings_digest(settings))

    def plain(self) -> dict[str, dict[str, Any]]:
        """Return all trials as plain values, for the workers."""
        return {digest: asdict(recorded) for digest, recorded in self.trials.items()}


def recorded_from(content: Any) -> Recorded:
    """Build a trial from the content of its file.

    Raises:
        ValueError, TypeError, KeyError: the content is not a trial.
    """
    fields = dict(content)
    recorded = Recorded(**{**fields, "trial": Trial(**fields["trial"])})
    trial, numbers = (
        recorded.trial,
        [recorded.number, *recorded.curve, recorded.trial.epochs, recorded.trial.score or 0],
    )
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise ValueError("a number is missing")
    if not (isinstance(recorded.drawn, dict) and isinstance(trial.settings, dict) and isinstance(trial.state, str)):
        raise ValueError("drawn, settings or state is missing")
    if trial.state == "done" and not (isinstance(trial.score, int | float) and trial.valid):
        raise ValueError("a trial is done without metrics")
    return recorded


def _read(path: Path) -> Recorded:
    try:
        return recorded_from(unsealed(read_json(path)))
    except (ValueError, TypeError, KeyError, OSError, RecursionError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, reason: object) -> ConfigError:
    return ConfigError(f"{path} is damaged ({reason}): delete it, and its trial is run again")
