"""A study: its trials, their table, and the best configuration as a property file."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from recbole_kd.config.merging import merge_sources
from recbole_kd.config.schema import DEFAULT_WEIGHT
from recbole_kd.errors import ConfigError
from recbole_kd.pipeline.quick_start import run_request
from recbole_kd.pipeline.request import make_request
from recbole_kd.pipeline.training_entries import WITHOUT_EFFECT
from recbole_kd.storage.files import write_json, write_text_whole
from recbole_kd.storage.integrity import sealed, unsealed
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.places import user_path
from recbole_kd.storage.targets import check_file, check_folder, holds_text

FAILED = -1e9
"""The objective of a failed trial, below every possible metric."""

PLACES = ("data_path", "cache_dir", "output_dir", "teacher_path")
"""Keys that name folders. They are made absolute, because workers have their own working folder."""

TRIALS, BEST = "trials.json", "best.yaml"
BEST_MARK = "# The best of "
"""The beginning of the best configuration's file. A file without it is not replaced."""
STUDY_FILE = "study.json"
"""Record of a Ray Tune study. A Hyperopt study has only its trials."""

DATA_PATH = "dataset/"
"""RecBole's default ``data_path``, relative to the working folder of the command, not of a worker."""

REASON_WIDTH = 60
"""Columns of a failed trial's reason in the table. Longer text is wrapped."""

AfterEpoch = Callable[[int, float], None]


@dataclass
class Trial:
    """The state and the metrics of one configuration.

    Attributes:
        settings: the searched keys.
        state: ``done``, ``stopped`` (by the scheduler), ``failed`` (see ``reason``) or ``interrupted``.
        score: the best validation score so far.
        bigger: whether a bigger score is better.
        epochs: number of epochs.
        metric: name of the validation metric.
        valid, test: metrics of the epoch best by validation, once the trial is done.
        reason: message of a failure.
    """

    settings: dict[str, Any]
    state: str
    score: float | None = None
    bigger: bool = True
    epochs: int = 0
    metric: str = ""
    valid: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def objective(self) -> float:
        """The value to maximise."""
        return FAILED if self.score is None else objective(self.score, self.bigger)


def objective(score: float, bigger: bool) -> float:
    """Return a validation score as a value to maximise."""
    return score if bigger else -score


OF_TRIAL = {"kd_compare": False, "kd_weight": DEFAULT_WEIGHT}
"""Keys of a trial that neither the user nor the space gives: the search itself chooses among weights."""


def run_trial(base: Mapping[str, Any], settings: Mapping[str, Any], after_epoch: AfterEpoch | None = None) -> Trial:
    """Distil with these settings. Any error makes the trial a failed one with its message.

    Args:
        base: keys common to all trials.
        settings: keys of this trial, which override them.
        after_epoch: callback with epoch and validation score.
    """
    try:
        result = run_request(
            make_request(merge_sources(None, {**OF_TRIAL, **base}, settings), drawn=settings),
            after_epoch=after_epoch,
            writes_report=False,
        )
    except Exception as error:  # such as bad values, a NaN loss or no memory: the other trials go on
        words = " ".join(str(error).split()) or type(error).__name__
        named = words if isinstance(error, ConfigError) else f"{type(error).__name__}: {words}"
        return Trial(dict(settings), "failed", reason=named)
    distilled, metric = result["distilled"], str(result["valid_metric"]).lower()
    score = float(distilled["valid"][metric])
    if not math.isfinite(score):
        return Trial(dict(settings), "failed", reason=f"{metric} of the validation is {score}")
    return Trial(
        dict(settings),
        "done",
        score,
        result["valid_metric_bigger"],
        distilled["epochs"],
        metric,
        distilled["valid"],
        distilled["test"],
    )


@dataclass
class Study:
    """The trials of one base configuration.

    Attributes:
        base: the common keys as the user gave them.
        folder: folder of the study's files.
        trials: the trials so far.
        space: the search space as JSON values.
    """

    base: Mapping[str, Any]
    folder: Path
    trials: list[Trial] = field(default_factory=list)
    space: Mapping[str, Any] | None = None

    @property
    def best(self) -> Trial | None:
        """The finished trial that is best by validation, or None.

        A trial that the scheduler stopped does not count, because it has no metrics of a whole training.
        """
        done = [trial for trial in self.trials if trial.state == "done"]
        return max(done, key=lambda trial: trial.objective) if done else None

    def write(self) -> None:
        """Write trials.json and, once a trial is done, best.yaml.

        ``run_recbole_kd.py --config_files=best.yaml`` repeats the best trial.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        space = {} if self.space is None else {"space": dict(self.space)}
        content = {"base": dict(self.base), **space, "trials": [asdict(trial) for trial in self.trials]}
        write_json(self.folder / TRIALS, sealed(content))
        if self.best is None:
            return
        repeated = merge_sources(None, {"kd_weight": DEFAULT_WEIGHT, **self.base}, self.best.settings)
        plain = json.loads(json.dumps(repeated))
        figures = ", ".join(f"{name} {value:.10g}" for name, value in self.best.valid.items())
        text = f"{BEST_MARK} {len(self.trials)} trials, on validation: {figures}.\n" + yaml.safe_dump(
            plain, sort_keys=False
        )
        write_text_whole(self.folder / BEST, text)

    def check_target(self, record: str, resume: bool, further: Collection[str] = ()) -> None:
        """Refuse a folder that is not this study's.

        A new study needs a missing or empty folder, a resumed one its own folder.

        Args:
            record: name of the file that a study of this tool writes.
            resume: continue the existing study.
            further: names that an interrupted study of this tool may have written before its record.

        Raises:
            ConfigError: the study exists already.
            TargetError: the folder holds something else.
        """
        if (self.folder / record).is_file() and (record == STUDY_FILE or not (self.folder / STUDY_FILE).exists()):
            if not resume:
                raise ConfigError(
                    f"The study {self.folder} is there already: continue it with --resume=True, delete it, or name "
                    "another with --study=NAME"
                )
            check_file(self.folder / TRIALS, own=lambda _: True)
            check_file(self.folder / BEST, own=lambda path: holds_text(path, BEST_MARK))
            return
        check_folder(self.folder, own=lambda path: resume and path.name in (record, *further), option="--study")

    def finished(self) -> list[Trial]:
        """Return the trials that an interrupted search of this base and space has done.

        They come from its record. Without a record there are none.

        Raises:
            ConfigError: the record is damaged, or of another search.
        """
        path = self.folder / TRIALS
        if not path.is_file():
            return []
        try:
            record = unsealed(read_json(path))
            trials = [Trial(**fields) for fields in record["trials"]]
            same = what_counts(record["base"]) == what_counts(self.base) and record.get("space", self.space) == as_json(
                self.space
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} is damaged ({error}): delete it, or name another study with --study=NAME"
            ) from None
        if not same:
            raise ConfigError(
                f"The study {self.folder} was made with other keys or another search space: give it the same, "
                "or name another with --study=NAME"
            )
        return [trial for trial in trials if trial.state == "done"]

    def table(self) -> str:
        """Return a table of all trials, best first."""
        keys = list(dict.fromkeys(key for trial in self.trials for key in trial.settings))
        metric = next((trial.metric for trial in self.trials if trial.metric), "score")
        rows = [
            [
                *(_short(trial.settings.get(key, "")) for key in keys),
                trial.state,
                str(trial.epochs or ""),
                "" if trial.score is None else f"{trial.score:.4f}",
                f"{trial.test[metric]:.4f}" if metric in trial.test else "",
                textwrap.fill(trial.reason, REASON_WIDTH),
            ]
            for trial in sorted(self.trials, key=lambda trial: (trial.state != "done", -trial.objective))
        ]
        return tabulate(
            rows,
            headers=[*keys, "state", "epochs", f"valid {metric}", f"test {metric}", "reason"],
            disable_numparse=True,
        )


def as_json(value: Any) -> Any:
    """Return a value as it is after writing and reading JSON."""
    return json.loads(json.dumps(value, default=str))


def what_counts(base: Mapping[str, Any]) -> Any:
    """Return the keys of a base that affect the result of a trial."""
    return as_json({key: value for key, value in base.items() if key not in WITHOUT_EFFECT})


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def absolute(base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same keys with absolute folders, including RecBole's default data folder."""
    named = {"data_path": DATA_PATH, **base}
    return {
        key: str(user_path(value, key).resolve()) if key in PLACES and value else value for key, value in named.items()
    }
