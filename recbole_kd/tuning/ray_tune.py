"""Ray Tune: parallel, resumable trials on one machine or a cluster, with early stopping."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_kd.distributed.ray_cluster import connect
from recbole_kd.distributed.ray_probe import check_room
from recbole_kd.storage.cache import cache_folder
from recbole_kd.storage.files import write_json
from recbole_kd.tuning.ray_record import StudyRecord
from recbole_kd.tuning.ray_space import check_searcher, drawn_values, make_searcher, ray_space
from recbole_kd.tuning.ray_study import OF_RAY, definition, is_known
from recbole_kd.tuning.ray_teachers import teachers_once
from recbole_kd.tuning.ray_trial import METRIC, as_trial, became, ray_trial
from recbole_kd.tuning.ray_worker import NODE_CACHE, trial_request
from recbole_kd.tuning.space import Space
from recbole_kd.tuning.study import STUDY_FILE, Study, absolute


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
    if is_known(study, space, options):
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
    teachers = teachers_once(for_workers, space, resources)
    trainable = _trainable(for_workers, space, teachers, resources, record)
    write_json(study.folder / STUDY_FILE, definition(study, space, options))
    results = _tuner(study, space, trainable, base, options, record).fit()
    found = [as_trial(result, space, study) for result in results]
    kept = [record.of(trial.settings) for trial in found]
    study.trials[:] = [
        own.trial if own is not None and own.is_final else trial for own, trial in zip(kept, found, strict=True)
    ]


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
        record, lambda metrics, config, error: became(metrics, config, error, space, study), drawn_values, METRIC
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
    request = trial_request(base, {**space.fixed, "kd": space.methods(base.get("kd"))[0]})
    return max([int(request.distilled_config(request.teacher or "")[0]["epochs"]), *searched])


def _trainable(
    base: Mapping[str, Any], space: Space, teachers: Any, resources: Mapping[str, float], record: StudyRecord
) -> Any:
    from ray import tune

    given = {"base": dict(base), "space": space, "teachers": teachers, "known": record.plain()}
    return tune.with_resources(tune.with_parameters(ray_trial, **given), dict(resources))
