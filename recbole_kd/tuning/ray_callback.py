"""A Ray Tune callback that keeps the record of a study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune import Callback

from recbole_kd.tuning.ray_record import StudyRecord
from recbole_kd.tuning.study import Trial


class KeepRecord(Callback):
    """A callback that writes each trial into the record when it reports, ends or fails.

    Args:
        record: the record of the study.
        as_trial: builds a Trial from a last result, drawn values and an error.
        drawn_values: extracts the values of the search from Ray's config of a trial.
        metric: name of the objective in a result.
    """

    def __init__(
        self,
        record: StudyRecord,
        as_trial: Callable[[Any, Any, Any], Trial],
        drawn_values: Callable[[Any], Any],
        metric: str,
    ) -> None:
        self._record = record
        self._as_trial = as_trial
        self._drawn_values = drawn_values
        self._metric = metric

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        found = self._as_trial(result, trial.config, None)
        if result.get("state") == "running":  # "interrupted" until it is known that no scheduler stopped it
            found.state = "interrupted"
            self._record.note(self._drawn_values(trial.config), found, float(result[self._metric]))
        else:
            self._record.note(self._drawn_values(trial.config), found)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._record.note(self._drawn_values(trial.config), self._as_trial(trial.last_result, trial.config, None))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Record the trial of a lost worker as interrupted, so that a resumed study runs it again."""
        found = self._as_trial(trial.last_result, trial.config, None)
        found.state = "interrupted"
        self._record.note(self._drawn_values(trial.config), found)
