"""Ray Tune: trials side by side on one machine or a cluster, with early stopping by the scheduler, resumable.

Longer than 300 lines: what only Ray Tune needs stands in one place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from recbole_kd.distributed.ray_cluster import connect, own_devices
from recbole_kd.distributed.ray_probe import check_room
from recbole_kd.errors import ConfigError, KDError
from recbole_kd.pipeline.quick_start import make_teachers
from recbole_kd.pipeline.request import make_request, merge_sources
from recbole_kd.storage.cache import cache_folder
from recbole_kd.storage.digests import settings_digest
from recbole_kd.storage.files import write_json
from recbole_kd.storage.places import user_path
from recbole_kd.tuning.space import Parameter, Space
from recbole_kd.tuning.study import FAILED, STUDY_FILE, Study, Trial, absolute, as_json, objective, run_trial, what_counts
from recbole_kd.tuning.teacher_transfer import pack, unpack

METRIC = "objective"
GRID = "grid"
BEFORE_RECORD = ("runs", "tuner.pkl", "trainable.pkl")
"""Names in the folder of a study that was interrupted before it wrote its record; the last two are Ray's."""

FIXED = ("max_evals", "search_seed", "searcher", "scheduler", "grace_period", "reduction_factor", "max_concurrent", "max_failures")
"""Keys of a search that Ray keeps when it continues it."""

NODE_CACHE = "node_cache"
"""Key of a study's base: a node whose environment has RECBOLE_KD_CACHE keeps its teachers there, as the user named no cache."""


def tune_with_ray(study: Study, space: Space, options: Mapping[str, Any]) -> None:
    """Run or continue a study; its trials stand in it afterwards.

    Args:
        options: see :data:`recbole_kd.cli.tune.DEFAULTS`; and ``resume``.

    Raises:
        ConfigError: the study is there already, or is another one. TargetError: its folder holds something else.
        KDError: the teacher cannot be trained.
    """
    _check_searcher(space, options["searcher"])
    known = _known_study(study, space, options)
    base = absolute({**study.base, "output_dir": str(study.folder / "runs")})
    for_workers = {**base, NODE_CACHE: not base.get("cache_dir"), "cache_dir": str(cache_folder(base.get("cache_dir")).resolve())}
    resources = {"cpu": options["cpus_per_trial"], "gpu": options["gpus_per_trial"]}
    check_room(connect(options["ray_address"]), resources["cpu"], resources["gpu"], "trial")
    teachers = _teachers_once(for_workers, space, resources)
    trainable = _trainable(for_workers, space, teachers, resources, options)
    tuner = _restored(study, trainable) if known else _fresh(study, space, trainable, base, options)
    write_json(study.folder / STUDY_FILE, _record(study, space, options))
    study.trials[:] = [_as_trial(result, space, study) for result in tuner.fit()]


# -- the study ------------------------------------------------------------------------------------------------------------


def _known_study(study: Study, space: Space, options: Mapping[str, Any]) -> bool:
    """Is there a study to continue?"""
    file = study.folder / STUDY_FILE
    study.check_target(STUDY_FILE, bool(options["resume"]), BEFORE_RECORD)
    if not file.is_file():
        return False
    made, wanted = json.loads(file.read_text(encoding="utf-8")), _record(study, space, options)
    for part, words in (("space", "for another search space"), ("base", "with other keys"), ("search", "by another search")):
        if made.get(part) != wanted[part]:
            raise ConfigError(
                f"The study {study.folder} was made {words}{_difference(made.get(part), wanted[part])}: give it the same, "
                "or name another with --study=NAME"
            )
    return True


def _record(study: Study, space: Space, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a study is: Ray goes on with all of it as it began."""
    return {"space": as_json(space.plain()), "base": what_counts(study.base), "search": {key: options[key] for key in FIXED}}


def _difference(made: Any, wanted: Mapping[str, Any]) -> str:
    """The first key that differs, with both values."""
    made = made or {}
    key = next((key for key in (*wanted, *made) if made.get(key) != wanted.get(key)), None)
    return "" if key is None or key in ("parameters", "fixed") else f" ({key}={made.get(key)!r}, not {wanted.get(key)!r})"


def _fresh(study: Study, space: Space, trainable: Any, base: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    from ray import tune

    searcher = _searcher(options)
    config = tune.TuneConfig(
        metric=METRIC, mode="max", num_samples=options["max_evals"], search_alg=searcher, scheduler=_scheduler(base, space, options),
        max_concurrent_trials=options["max_concurrent"] or None,
    )  # fmt: skip
    failures = tune.FailureConfig(max_failures=options["max_failures"])
    run = tune.RunConfig(
        name=study.folder.name, storage_path=str(study.folder.parent), failure_config=failures, verbose=int(base.get("show_progress", True))
    )
    return tune.Tuner(trainable, param_space=ray_space(space, study.base.get("kd")), tune_config=config, run_config=run)


def _restored(study: Study, trainable: Any) -> Any:
    from ray import tune

    if not tune.Tuner.can_restore(str(study.folder)):
        raise ConfigError(f"The study {study.folder} was interrupted before its first trial: delete the folder and start again")
    return tune.Tuner.restore(str(study.folder), trainable=trainable, resume_unfinished=True)


def _scheduler(base: Mapping[str, Any], space: Space, options: Mapping[str, Any]) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if options["scheduler"] == "FIFO":
        return FIFOScheduler()
    longest = _longest(base, space)
    grace = min(options["grace_period"], longest)
    # one epoch more than there are: a trial at its end is done, not stopped
    return ASHAScheduler(time_attr="epoch", max_t=longest + 1, grace_period=grace, reduction_factor=options["reduction_factor"])


def _longest(base: Mapping[str, Any], space: Space) -> int:
    """Epochs of the longest trial."""
    searched = [value for p in space.parameters if p.key == "epochs" for value in p.examples]
    request = _request(base, {**space.fixed, "kd": space.methods(base.get("kd"))[0]})
    return max([int(request.distilled_config(request.teacher or "")[0]["epochs"]), *searched])


def _request(base: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    return make_request(merge_sources(None, dict(base), settings))


# -- search spaces --------------------------------------------------------------------------------------------------------


def ray_space(space: Space, kd: str | None) -> dict[str, Any]:
    """The space as Ray wants it; the ``grid`` values as one parameter of whole combinations."""
    from ray import tune

    drawn = {parameter.name: _domain(parameter) for parameter in space.parameters if parameter.kind != "grid"}
    combinations = space.grid(kd)
    return {**drawn, GRID: tune.grid_search(combinations)} if len(combinations) > 1 else {**drawn, **_fixed_grid(combinations)}


def _fixed_grid(combinations: list[dict[str, Any]]) -> dict[str, Any]:
    return {GRID: combinations[0]} if combinations and combinations[0] else {}


def _domain(parameter: Parameter) -> Any:
    from math import exp

    from ray import tune

    values = parameter.values
    if parameter.kind == "choice":
        return tune.choice(list(values))
    if parameter.kind in ("int", "logint"):
        draw = tune.randint if parameter.kind == "int" else tune.lograndint
        return draw(values[0], values[1] + 1)
    if parameter.kind == "exponent":
        return tune.loguniform(exp(values[0]), exp(values[1]))
    draws: dict[str, Any] = {"uniform": tune.uniform, "loguniform": tune.loguniform, "quniform": tune.quniform}
    return draws[parameter.kind](*values)


def drawn_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Parameter name -> value of a trial of :func:`ray_space`."""
    return {**{name: value for name, value in config.items() if name != GRID}, **(config.get(GRID) or {})}


def _check_searcher(space: Space, searcher: str) -> None:
    listed = next((parameter.key for parameter in space.parameters if parameter.kind == "grid"), None)
    if searcher != "random" and listed is not None:
        raise ConfigError(f"searcher={searcher} cannot run a grid and {listed} is one: write choice, or take --searcher=random")
    module = {"optuna": "optuna", "hyperopt": "hyperopt"}.get(searcher)
    if module is not None:
        try:
            __import__(module)
        except ImportError:
            words = {"optuna": "pip install optuna", "hyperopt": "pip install hyperopt==0.2.5"}[searcher]
            raise ConfigError(f"searcher={searcher} needs {module}: run `{words}`, or take --searcher=random") from None


def _searcher(options: Mapping[str, Any]) -> Any:
    seed = options["search_seed"]
    if options["searcher"] == "hyperopt":
        from ray.tune.search.hyperopt import HyperOptSearch

        return HyperOptSearch(random_state_seed=seed)
    if options["searcher"] == "optuna":
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(seed=seed)
    from ray.tune.search.basic_variant import BasicVariantGenerator

    return BasicVariantGenerator(random_state=seed)


# -- trials ---------------------------------------------------------------------------------------------------------------


def _trainable(base: Mapping[str, Any], space: Space, teachers: Any, resources: Mapping[str, float], options: Mapping[str, Any]) -> Any:
    from ray import tune

    given = {"base": dict(base), "space": space, "teachers": teachers}
    return tune.with_resources(tune.with_parameters(ray_trial, **given), dict(resources))


def ray_trial(config: Mapping[str, Any], base: Mapping[str, Any], space: Space, teachers: Any) -> None:
    """One trial, in a worker: reports every epoch, and at the end the figures of the best one or the reason of its failure."""
    from ray import tune

    base = _on_this_node(base)
    names, packed = teachers
    unpack(names, partial(_get, packed), Path(base["cache_dir"]))
    settings = space.settings(drawn_values(config), base.get("kd"))
    best: dict[str, float] = {}
    bigger, last_epoch = _of_the_training(base, settings)

    def after_epoch(epoch: int, score: float) -> None:
        if epoch + 1 == last_epoch:
            return  # the report of the finished trial follows: the scheduler does not stop what has run all its epochs
        best["score"] = max(best.get("score", -float("inf")), objective(float(score), bigger))
        tune.report({METRIC: objective(float(score), bigger), "best": best["score"], "epoch": epoch + 1, "state": "running"})

    outcome = Path(base["output_dir"]) / "outcomes" / f"{settings_digest(settings)}.json"
    trial = _finished(outcome)
    if trial is None:
        # an interrupted trial goes on from its last epoch
        trial = run_trial({**base, **own_devices(), "resume": True, "show_progress": False}, settings, after_epoch)
        if trial.state == "done":
            write_json(outcome, asdict(trial))
    epoch = trial.epochs if trial.state == "done" else 0
    figures = {"score": trial.score, "bigger": trial.bigger, "metric": trial.metric, "valid": trial.valid, "test": trial.test}
    words = {"state": trial.state, "reason": trial.reason}
    tune.report({METRIC: trial.objective, "best": trial.objective, "epoch": epoch, **figures, **words})


def _on_this_node(base: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the cache of the node that this worker is on."""
    own = os.environ.get("RECBOLE_KD_CACHE") if base[NODE_CACHE] else None
    places = {"cache_dir": str(user_path(own, "RECBOLE_KD_CACHE").resolve())} if own else {}
    return {**{key: value for key, value in base.items() if key != NODE_CACHE}, **places}


def _finished(outcome: Path) -> Trial | None:
    """What a trial of these settings came to: Ray's own record of a killed driver is older than the last trials that ended."""
    return Trial(**json.loads(outcome.read_text(encoding="utf-8"))) if outcome.is_file() else None


def _get(reference: Any) -> Any:
    import ray

    return ray.get(reference)


def _of_the_training(base: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[bool, int]:
    """Return whether a bigger validation score is better, and how many epochs the trial has."""
    try:
        request = _request(base, settings)
        config = request.distilled_config(request.teacher or "")[0]
    except KDError:
        return True, 0  # the trial itself will say what is wrong
    return bool(config["valid_metric_bigger"]), int(config["epochs"])


def _as_trial(result: Any, space: Space, study: Study) -> Trial:
    metrics = result.metrics or {}
    config = result.config if result.config is not None else {}
    settings = space.settings(drawn_values(config), study.base.get("kd"))
    state, best = metrics.get("state"), metrics.get("best")
    if state == "done":
        own = {name: metrics[name] for name in ("score", "bigger", "metric", "valid", "test")}
        return Trial(settings, "done", epochs=metrics["epoch"], **own)
    if state == "failed":
        return Trial(settings, "failed", reason=metrics["reason"])
    epochs, score = int(metrics.get("epoch", 0)), None if best in (None, FAILED) else abs(float(best))
    if result.error is not None:
        return Trial(settings, "failed", score, epochs=epochs, reason=" ".join(str(result.error).split()))
    return Trial(settings, "stopped" if epochs else "interrupted", score, epochs=epochs)


# -- teachers -------------------------------------------------------------------------------------------------------------


def _teachers_once(base: Mapping[str, Any], space: Space, resources: Mapping[str, float]) -> tuple[list[str], Any]:
    """Train the study's teachers on the cluster, once, before any trial: their folders below the cache, and an object with their files."""
    import ray

    wanted = [list(space.trials_of(method)) for method in space.methods(base.get("kd"))]
    options = {"num_cpus": resources["cpu"], "num_gpus": resources["gpu"], "max_retries": 3, "max_calls": 1, "num_returns": 2}
    header, packed = ray.remote(**options)(_make_and_pack).remote(dict(base), wanted)  # type: ignore[call-overload]
    found = ray.get(header)
    if found["error"]:
        raise KDError(found["error"])
    return found["folders"], packed


def _teachers_of_one(base: Mapping[str, Any], wanted: list[dict[str, Any]]) -> list[Path]:
    """Teachers of the first of these settings that a run could have: of others a trial will fail alone, with its reason."""
    for settings in wanted[:-1]:
        try:
            return make_teachers(_request(base, settings))
        except ConfigError:
            continue
    return make_teachers(_request(base, wanted[-1]))


def _make_and_pack(base: Mapping[str, Any], wanted: list[list[dict[str, Any]]]) -> tuple[dict[str, Any], Any]:
    """Args: ``wanted``, of each method settings that a trial may have."""
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
