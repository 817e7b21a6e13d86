"""One trial of a Ray study: its run in a worker, its reports, and the Trial that they make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recbole_kd.distributed.ray_cluster import own_devices
from recbole_kd.errors import KDError
from recbole_kd.integration.quick_start import report_by_name
from recbole_kd.storage.digests import settings_digest
from recbole_kd.storage.files import write_json
from recbole_kd.tuning.ray_record import recorded_from
from recbole_kd.tuning.ray_space import drawn_values
from recbole_kd.tuning.ray_worker import on_this_node, trial_request
from recbole_kd.tuning.space import Space
from recbole_kd.tuning.study import FAILED, Study, Trial, objective, run_trial
from recbole_kd.tuning.teacher_transfer import unpack

METRIC = "objective"
"""Name of the value to maximise in the reports."""


def ray_trial(
    config: Mapping[str, Any],
    base: Mapping[str, Any],
    space: Space,
    teachers: Any,
    known: Mapping[str, Any] | None = None,
) -> None:
    """Run one trial in a worker, reporting every epoch and then its final metrics or error.

    Args:
        config: the drawn values.
        base: the common keys.
        space: the search space.
        teachers: folder names and packed files of the teachers.
        known: trials of a resumed study by the digest of their settings. Their epochs are reported again to the
            scheduler.
    """
    import ray
    from ray import tune

    base = on_this_node(base)
    settings = space.settings(drawn_values(config), base.get("kd"))
    digest = settings_digest(settings)
    before = recorded_from(known[digest]) if known and digest in known else None
    best: dict[str, float] = {}
    for epoch, reached in enumerate(before.curve if before else (), 1):
        best["score"] = max(best.get("score", -float("inf")), reached)
        report_by_name(tune, {METRIC: reached, "best": best["score"], "epoch": epoch, "state": "running"})
    if before is not None and before.is_final:
        _report(before.trial)
        return
    names, packed = teachers
    unpack(names, lambda: ray.get(packed), Path(base["cache_dir"]))
    bigger, last_epoch = _of_the_training(base, settings)

    def after_epoch(epoch: int, score: float) -> None:
        if epoch + 1 == last_epoch:
            return  # the final report follows, so the scheduler does not stop a trial that has run all its epochs
        best["score"] = max(best.get("score", -float("inf")), objective(float(score), bigger))
        reached = objective(float(score), bigger)
        report_by_name(tune, {METRIC: reached, "best": best["score"], "epoch": epoch + 1, "state": "running"})

    outcome = Path(base["output_dir"]) / "outcomes" / f"{digest}.json"
    trial = _finished(outcome)
    if trial is None:
        # An interrupted trial resumes after its last epoch.
        trial = run_trial({**base, **own_devices(), "resume": True, "show_progress": False}, settings, after_epoch)
        if trial.state == "done":
            write_json(outcome, asdict(trial))
    _report(trial)


def _report(trial: Trial) -> None:
    """Report the final result of a trial."""
    from ray import tune

    epoch = trial.epochs if trial.state != "failed" else 0
    figures = {
        "score": trial.score,
        "bigger": trial.bigger,
        "metric": trial.metric,
        "valid": trial.valid,
        "test": trial.test,
    }
    words = {"state": trial.state, "reason": trial.reason}
    report_by_name(tune, {METRIC: trial.objective, "best": trial.objective, "epoch": epoch, **figures, **words})


def _finished(outcome: Path) -> Trial | None:
    """Return the saved outcome of a trial.

    It may be newer than Ray's own record if the driver was killed.
    """
    return Trial(**json.loads(outcome.read_text(encoding="utf-8"))) if outcome.is_file() else None


def _of_the_training(base: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[bool, int]:
    """Return whether a bigger validation score is better, and the trial's number of epochs."""
    try:
        request = trial_request(base, settings)
        config = request.distilled_config(request.teacher or "")[0]
    except KDError:
        return True, 0  # the trial itself will report the error
    return bool(config["valid_metric_bigger"]), int(config["epochs"])


def as_trial(result: Any, space: Space, study: Study) -> Trial:
    """Build a Trial from a result of Ray's search."""
    return became(result.metrics, result.config, result.error, space, study)


def became(metrics: Any, config: Any, error: Any, space: Space, study: Study) -> Trial:
    """Build a Trial from the metrics, config and error of Ray's trial."""
    metrics, config = metrics or {}, config if config is not None else {}
    settings = space.settings(drawn_values(config), study.base.get("kd"))
    state, best = metrics.get("state"), metrics.get("best")
    if state == "done":
        own = {name: metrics[name] for name in ("score", "bigger", "metric", "valid", "test")}
        return Trial(settings, "done", epochs=metrics["epoch"], **own)
    if state == "failed":
        return Trial(settings, "failed", reason=metrics["reason"])
    epochs, score = int(metrics.get("epoch", 0)), None if best in (None, FAILED) else abs(float(best))
    bigger = score is None or float(best) >= 0  # a negative objective belongs to a score to be minimised
    if error is not None:
        return Trial(settings, "failed", score, bigger, epochs, reason=" ".join(str(error).split()))
    return Trial(settings, "stopped" if epochs else "interrupted", score, bigger, epochs)
