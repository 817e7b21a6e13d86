"""Ray Tune: parallel, resumable trials on one machine or a cluster, with early stopping."""
# Over 300 lines: the driver and the trials that it starts belong together.

from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recbole_kd.config.merging import merge_sources
from recbole_kd.distributed.ray_cluster import connect, own_devices
from recbole_kd.distributed.ray_probe import check_room
from recbole_kd.errors import ConfigError, KDError
from recbole_kd.integration.quick_start import report_by_name
from recbole_kd.pipeline.quick_start import make_teachers
from recbole_kd.pipeline.request import make_request
from recbole_kd.storage.cache import cache_folder
from recbole_kd.storage.digests import settings_digest
from recbole_kd.storage.files import write_json
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.places import user_path
from recbole_kd.tuning.ray_record import FOLDER as OF_RECORD
from recbole_kd.tuning.ray_record import StudyRecord, recorded_from
from recbole_kd.tuning.ray_space import check_searcher, drawn_values, make_searcher, ray_space
from recbole_kd.tuning.space import Space
from recbole_kd.tuning.study import (
    FAILED,
    STUDY_FILE,
    Study,
    Trial,
    absolute,
    as_json,
    objective,
    run_trial,
    what_counts,
)
from recbole_kd.tuning.teacher_transfer import pack, unpack

METRIC = "objective"
OF_RAY = "ray"
"""Folder of Ray's own files in the folder of the study. Ray writes pickles there, which are never read."""
BEFORE_RECORD = ("runs", OF_RAY, OF_RECORD, "tuner.pkl", "trainable.pkl")
"""Names in the folder of a study that was interrupted before its record existed.

The last two are Ray's, of earlier versions."""

FIXED = (
    "max_evals",
    "search_seed",
    "searcher",
    "scheduler",
    "grace_period",
    "reduction_factor",
    "max_concurrent",
    "max_failures",
)
"""Search keys that must not change when a study is resumed."""

NODE_CACHE = "node_cache"
"""Key of a study's base: whether a worker uses the RECBOLE_KD_CACHE of its node, because the user named no cache."""


def tune_with_ray(study: Study, space: Space, options: Mapping[str, Any]) -> None:
    """Run or resume a study and add its trials to it.

    Args:
        study: the study.
        space: the search space.
        options: see :data:`recbole_kd.cli.tune.DEFAULTS`, and ``resume``.

    Raises:
        ConfigError: the study exists already, or differs from the one to resume.
        TargetError: its folder holds something else.
        KDError: the teacher cannot be trained.
    """
    check_searcher(space, options["searcher"])
    record = StudyRecord(study.folder)
    if _known_study(study, space, options):
        record.read()
        if _is_whole(record, space, study, options):
            study.trials[:] = [recorded.trial for recorded in record.trials.values()]
            return
    base = absolute({**study.base, "output_dir": str(study.folder / "runs")})
    for_workers = {
        **base,
        NODE_CACHE: not base.get("cache_dir"),
        "cache_dir": str(cache_folder(base.get("cache_dir")).resolve()),
    }
    resources = {"cpu": options["cpus_per_trial"], "gpu": options["gpus_per_trial"]}
    check_room(connect(options["ray_address"]), resources["cpu"], resources["gpu"], "trial")
    teachers = _teachers_once(for_workers, space, resources)
    trainable = _trainable(for_workers, space, teachers, resources, record)
    write_json(study.folder / STUDY_FILE, _record(study, space, options))
    results = _tuner(study, space, trainable, base, options, record).fit()
    found = [_as_trial(result, space, study) for result in results]
    kept = [record.of(trial.settings) for trial in found]
    study.trials[:] = [
        own.trial if own is not None and own.is_final else trial for own, trial in zip(kept, found, strict=True)
    ]


# -- the study ----------------------------------------------------------------------------------------------------


def _known_study(study: Study, space: Space, options: Mapping[str, Any]) -> bool:
    """Return whether there is a study to resume."""
    file = study.folder / STUDY_FILE
    study.check_target(STUDY_FILE, bool(options["resume"]), BEFORE_RECORD)
    if not file.is_file():
        return False
    made, wanted = _read_study(file), _record(study, space, options)
    for part, words in (
        ("space", "for another search space"),
        ("base", "with other keys"),
        ("search", "by another search"),
    ):
        if made.get(part) != wanted[part]:
            raise ConfigError(
                f"The study {study.folder} was made {words}{_difference(made.get(part), wanted[part])}: give it the "
                "same, or name another with --study=NAME"
            )
    return True


def _read_study(file: Path) -> dict[str, Any]:
    """Return what :func:`_record` gave of an earlier study (ConfigError)."""
    try:
        made = read_json(file)
        if not isinstance(made, dict):
            raise ValueError(f"it holds a {type(made).__name__}, not a mapping")
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"{file} is damaged ({error}): delete the folder of the study, or name another with --study=NAME"
        ) from None
    return made


def _record(study: Study, space: Space, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what defines a study. Ray resumes it only if nothing of this changed."""
    return {
        "space": as_json(space.plain()),
        "base": what_counts(study.base),
        "search": {key: options[key] for key in FIXED},
    }


def _difference(made: Any, wanted: Mapping[str, Any]) -> str:
    """Return the first key that differs, with both values."""
    made = made or {}
    key = next((key for key in (*wanted, *made) if made.get(key) != wanted.get(key)), None)
    return (
        "" if key is None or key in ("parameters", "fixed") else f" ({key}={made.get(key)!r}, not {wanted.get(key)!r})"
    )


def _is_whole(record: StudyRecord, space: Space, study: Study, options: Mapping[str, Any]) -> bool:
    """Return whether every trial of the study is final."""
    wanted = options["max_evals"] * max(1, len(space.grid(study.base.get("kd"))))
    return len(record.trials) >= wanted and all(recorded.is_final for recorded in record.trials.values())


def _tuner(
    study: Study, space: Space, trainable: Any, base: Mapping[str, Any], options: Mapping[str, Any], record: StudyRecord
) -> Any:
    """Return a new Ray search whose files are in a new folder.

    No existing file is read. A resumed study draws the same values again. Final trials are reported from the record,
    the others resume.
    """
    from ray import tune

    from recbole_kd.tuning.ray_callback import KeepRecord

    keep = KeepRecord(
        record, lambda metrics, config, error: _became(metrics, config, error, space, study), drawn_values, METRIC
    )
    of_ray = study.folder / OF_RAY
    of_ray.mkdir(parents=True, exist_ok=True)
    session = Path(tempfile.mkdtemp(prefix="session-", dir=of_ray))
    searcher = make_searcher(options, space, record)
    config = tune.TuneConfig(
        metric=METRIC, mode="max", num_samples=options["max_evals"], search_alg=searcher,
        scheduler=_scheduler(base, space, options),
        max_concurrent_trials=options["max_concurrent"] or None,
    )  # fmt: skip
    of_runs = tune if hasattr(tune, "RunConfig") else importlib.import_module("ray.air")  # Ray below 2.43
    failures = of_runs.FailureConfig(max_failures=options["max_failures"])
    run = of_runs.RunConfig(
        name=session.name,
        storage_path=str(of_ray),
        failure_config=failures,
        verbose=int(base.get("show_progress", True)),
        callbacks=[keep],
    )
    return tune.Tuner(trainable, param_space=ray_space(space, study.base.get("kd")), tune_config=config, run_config=run)


def _scheduler(base: Mapping[str, Any], space: Space, options: Mapping[str, Any]) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if options["scheduler"] == "FIFO":
        return FIFOScheduler()
    longest = _longest(base, space)
    grace = min(options["grace_period"], longest)
    # One epoch more than there are, so that a complete trial counts as done, not as stopped.
    return ASHAScheduler(
        time_attr="epoch", max_t=longest + 1, grace_period=grace, reduction_factor=options["reduction_factor"]
    )


def _longest(base: Mapping[str, Any], space: Space) -> int:
    """Return the number of epochs of the longest trial."""
    searched = [value for p in space.parameters if p.key == "epochs" for value in p.examples]
    request = _request(base, {**space.fixed, "kd": space.methods(base.get("kd"))[0]})
    return max([int(request.distilled_config(request.teacher or "")[0]["epochs"]), *searched])


def _request(base: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    return make_request(merge_sources(None, dict(base), settings), drawn=settings)


# -- trials -------------------------------------------------------------------------------------------------------


def _trainable(
    base: Mapping[str, Any], space: Space, teachers: Any, resources: Mapping[str, float], record: StudyRecord
) -> Any:
    from ray import tune

    given = {"base": dict(base), "space": space, "teachers": teachers, "known": record.plain()}
    return tune.with_resources(tune.with_parameters(ray_trial, **given), dict(resources))


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

    base = _on_this_node(base)
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


def _on_this_node(base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the base with the cache folder of this worker's node."""
    own = os.environ.get("RECBOLE_KD_CACHE") if base[NODE_CACHE] else None
    places = {"cache_dir": str(user_path(own, "RECBOLE_KD_CACHE").resolve())} if own else {}
    return {**{key: value for key, value in base.items() if key != NODE_CACHE}, **places}


def _finished(outcome: Path) -> Trial | None:
    """Return the saved outcome of a trial.

    It may be newer than Ray's own record if the driver was killed.
    """
    return Trial(**json.loads(outcome.read_text(encoding="utf-8"))) if outcome.is_file() else None


def _of_the_training(base: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[bool, int]:
    """Return whether a bigger validation score is better, and the trial's number of epochs."""
    try:
        request = _request(base, settings)
        config = request.distilled_config(request.teacher or "")[0]
    except KDError:
        return True, 0  # the trial itself will report the error
    return bool(config["valid_metric_bigger"]), int(config["epochs"])


def _as_trial(result: Any, space: Space, study: Study) -> Trial:
    return _became(result.metrics, result.config, result.error, space, study)


def _became(metrics: Any, config: Any, error: Any, space: Space, study: Study) -> Trial:
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


# -- teachers -----------------------------------------------------------------------------------------------------


def _teachers_once(base: Mapping[str, Any], space: Space, resources: Mapping[str, float]) -> tuple[list[str], Any]:
    """Train the study's teachers on the cluster once, before any trial.

    Returns:
        their folders relative to the cache, and an object with their files.
    """
    import ray

    wanted = [list(space.trials_of(method)) for method in space.methods(base.get("kd"))]
    options = {
        "num_cpus": resources["cpu"],
        "num_gpus": resources["gpu"],
        "max_retries": 3,
        "max_calls": 1,
        "num_returns": 2,
    }
    header, packed = ray.remote(**options)(_make_and_pack).remote(dict(base), wanted)  # type: ignore[call-overload]
    found = ray.get(header)
    if found["error"]:
        raise KDError(found["error"])
    return found["folders"], packed


def _teachers_of_one(base: Mapping[str, Any], wanted: list[dict[str, Any]]) -> list[Path]:
    """Return the teachers for the first of these settings that is valid.

    A trial with invalid settings fails later, with its own message.
    """
    for settings in wanted[:-1]:
        try:
            return make_teachers(_request(base, settings))
        except ConfigError:
            continue
    return make_teachers(_request(base, wanted[-1]))


def _make_and_pack(base: Mapping[str, Any], wanted: list[list[dict[str, Any]]]) -> tuple[dict[str, Any], Any]:
    """Train the teachers and pack their files.

    Args:
        base: the common keys.
        wanted: for each method, settings that trials may have.
    """
    folders: dict[str, Path] = {}
    base = _on_this_node(base)
    own = {**base, **own_devices(), "resume": True, "show_progress": False}
    try:
        for settings in wanted:
            folders.update({str(path): path for path in _teachers_of_one(own, settings)})
    except KDError as error:
        return {"error": str(error), "folders": []}, {}
    packed = pack(list(folders.values()), Path(base["cache_dir"]))
    return {"error": "", "folders": list(packed)}, packed
