"""A study: its trials, the table of them, and the best configuration as a property file."""

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

from recbole_kd.errors import ConfigError
from recbole_kd.pipeline.quick_start import run_request
from recbole_kd.pipeline.request import make_request, merge_sources
from recbole_kd.pipeline.training_entries import WITHOUT_EFFECT
from recbole_kd.storage.files import write_json, write_text_whole
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.places import user_path
from recbole_kd.storage.targets import check_file, check_folder, holds_text

FAILED = -1e9
"""The objective of a failed trial: below everything that a metric can be."""

PLACES = ("data_path", "cache_dir", "output_dir", "teacher_path")
"""Keys that name folders: workers have a working folder of their own."""

TRIALS, BEST = "trials.json", "best.yaml"
BEST_MARK = "# The best of "
"""How the best configuration's file begins; a file without it is not replaced."""
STUDY_FILE = "study.json"
"""Record of a study of Ray Tune; one of Hyperopt has its trials alone."""

DATA_PATH = "dataset/"
"""Where RecBole looks for data sets if no ``data_path`` is given: in the folder that a command is typed in, not that of a worker."""

REASON_WIDTH = 60
"""Columns of a failed trial's reason in the table, which goes on in the next line."""

AfterEpoch = Callable[[int, float], None]


@dataclass
class Trial:
    """What became of one configuration.

    Attributes:
        settings: the keys that were searched. state: ``done``, ``stopped`` (by the scheduler), ``failed`` (``reason``
            says why) or ``interrupted``. score: the best validation score so far. bigger: is a bigger one better?
            valid, test: metrics of the epoch best by validation, once it is done.
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
        """To be maximised."""
        return FAILED if self.score is None else objective(self.score, self.bigger)


def objective(score: float, bigger: bool) -> float:
    """A validation score as what is maximised."""
    return score if bigger else -score


def run_trial(base: Mapping[str, Any], settings: Mapping[str, Any], after_epoch: AfterEpoch | None = None) -> Trial:
    """Distil with these settings. Whatever goes wrong makes this trial a failed one, with its reason.

    Args:
        base: what holds for all trials. settings: of this one, over them. after_epoch: gets epoch and validation score.
    """
    try:
        result = run_request(
            make_request(merge_sources(None, {"kd_compare": False, **base}, settings)), after_epoch=after_epoch
        )
    except Exception as error:  # bad values, a loss that is no number, a device out of memory: it fails alone
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
    """Trials that were run for one base configuration.

    Attributes:
        base: the common keys as the user gave them. folder: of the study's files. space: that is searched, as JSON
            values.
    """

    base: Mapping[str, Any]
    folder: Path
    trials: list[Trial] = field(default_factory=list)
    space: Mapping[str, Any] | None = None

    @property
    def best(self) -> Trial | None:
        """The finished trial that is best by validation; one stopped by the scheduler has no figures of a whole training."""
        done = [trial for trial in self.trials if trial.state == "done"]
        return max(done, key=lambda trial: trial.objective) if done else None

    def write(self) -> None:
        """trials.json and, once a trial is done, best.yaml: ``recbole-kd run --config_files=best.yaml`` repeats that trial."""
        self.folder.mkdir(parents=True, exist_ok=True)
        space = {} if self.space is None else {"space": dict(self.space)}
        write_json(
            self.folder / TRIALS, {"base": dict(self.base), **space, "trials": [asdict(trial) for trial in self.trials]}
        )
        if self.best is None:
            return
        content = merge_sources(None, dict(self.base), self.best.settings)
        plain = json.loads(json.dumps(content))
        figures = ", ".join(f"{name} {value:.10g}" for name, value in self.best.valid.items())
        text = f"{BEST_MARK} {len(self.trials)} trials, on validation: {figures}.\n" + yaml.safe_dump(
            plain, sort_keys=False
        )
        write_text_whole(self.folder / BEST, text)

    def check_target(self, record: str, resume: bool, further: Collection[str] = ()) -> None:
        """Refuse a folder that is not this study's: a new study needs a missing or empty one, a continued one its own.

        Args:
            record: name of the file that a study of this tool leaves. resume: continue the study that is there.
            further: names that an interrupted study of this tool may leave before it writes its record.

        Raises:
            ConfigError: a study is there already. TargetError: something else is there.
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
        check_folder(self.folder, own=lambda path: resume and path.name in further, option="--study")

    def finished(self) -> list[Trial]:
        """The trials that an interrupted search of this base and space has done, from its record; none where there is no record.

        Raises:
            ConfigError: the record is damaged, or of another search.
        """
        path = self.folder / TRIALS
        if not path.is_file():
            return []
        try:
            record = read_json(path)
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
        """All trials, the best first."""
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
    """A value as it comes back from a JSON file."""
    return json.loads(json.dumps(value, default=str))


def what_counts(base: Mapping[str, Any]) -> Any:
    """The keys of a base that change what a trial comes to."""
    return as_json({key: value for key, value in base.items() if key not in WITHOUT_EFFECT})


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def absolute(base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same keys with absolute folders, RecBole's default folder of data sets among them."""
    named = {"data_path": DATA_PATH, **base}
    return {
        key: str(user_path(value, key).resolve()) if key in PLACES and value else value for key, value in named.items()
    }
