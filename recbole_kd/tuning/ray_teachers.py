"""The teachers of a Ray study, trained on its cluster once, before any trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_kd.distributed.ray_cluster import own_devices
from recbole_kd.errors import ConfigError, KDError
from recbole_kd.pipeline.quick_start import make_teachers
from recbole_kd.tuning.ray_worker import on_this_node, trial_request
from recbole_kd.tuning.space import Space
from recbole_kd.tuning.teacher_transfer import pack


def teachers_once(base: Mapping[str, Any], space: Space, resources: Mapping[str, float]) -> tuple[list[str], Any]:
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
            return make_teachers(trial_request(base, settings))
        except ConfigError:
            continue
    return make_teachers(trial_request(base, wanted[-1]))


def _make_and_pack(base: Mapping[str, Any], wanted: list[list[dict[str, Any]]]) -> tuple[dict[str, Any], Any]:
    """Train the teachers and pack their files.

    Args:
        base: the common keys.
        wanted: for each method, settings that trials may have.
    """
    folders: dict[str, Path] = {}
    base = on_this_node(base)
    own = {**base, **own_devices(), "resume": True, "show_progress": False}
    try:
        for settings in wanted:
            folders.update({str(path): path for path in _teachers_of_one(own, settings)})
    except KDError as error:
        return {"error": str(error), "folders": []}, {}
    packed = pack(list(folders.values()), Path(base["cache_dir"]))
    return {"error": "", "folders": list(packed)}, packed
