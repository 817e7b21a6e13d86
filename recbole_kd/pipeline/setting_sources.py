"""The settings of each training of a run, with the source of each value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_kd.config.code_names import KEY as ALLOW_CODE
from recbole_kd.config.merging import MERGED, merge_sources
from recbole_kd.config.model_catalogue import recbole_defaults
from recbole_kd.config.property_layers import distiller_layers, layers, public_name, student_layers, teacher_layers
from recbole_kd.config.schema import AUTO_WEIGHT, DEFAULT_WEIGHT
from recbole_kd.pipeline.plan import Plan
from recbole_kd.pipeline.request import SHARED

RECBOLE = "RecBole's default"
OWN = "recbole_kd's default"
"""Source name of properties/overall.yaml."""

Source = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Setting:
    """A key's value in one training, and its source in words."""

    value: Any
    source: str


def settings_of_stages(plan: Plan, given: Sequence[Source]) -> dict[str, dict[str, Setting]]:
    """Return stage -> key -> setting for all trainings of a run.

    The stages are ``student`` (without a teacher), ``distilled``, and ``teacher NAME`` for each teacher to be trained.
    A key of a mapping that may be given in part has a dot, as in ``eval_args.order``. Keys without a source are left
    out.

    Args:
        plan: the plan of the run.
        given: the user's values with their source in words (``command``, ``file a.yaml``), the strongest first.
    """
    request = plan.request
    where = (request.dataset, request.run["eval_protocol"], request.setting)
    of_student = student_layers(request.model, *where)[1]
    of_method = distiller_layers(request.kd, request.dataset, request.model, plan.teacher_name)[1]
    own = [
        (source, {key: value for key, value in values.items() if key != "kd" and not key.startswith("kd_")})
        for source, values in given
    ]
    searched = [(OWN, {"kd_weight": AUTO_WEIGHT})] if plan.general_weight is not None else []
    weights = [values["kd_weight"] for _, values in given if "kd_weight" in values]
    unread = {"kd_weight"} if weights[:1] == [DEFAULT_WEIGHT] else set[str]()
    of_run = [(source, {key: value for key, value in values.items() if key not in unread}) for source, values in given]
    stages = {
        "student": _settings(plan.alone, [*own, *_property_files(of_student)]),
        "distilled": _settings(plan.distilled, [*of_run, *searched, *_property_files([*of_student, *of_method])]),
    }
    for config in plan.teachers:
        name = public_name(str(config["model"]))
        sources = [*_of_teacher(given), *_property_files(teacher_layers(name, *where)[1])]
        stages[f"teacher {name}"] = _settings(config, sources)
    return stages


def sources_of(files: Sequence[str], values: Mapping[str, Any]) -> list[Source]:
    """Return the user's values by source in words, the strongest first.

    Args:
        files: RecBole property files; a later one overrides an earlier one.
        values: keys of the command line.

    Raises:
        ConfigError: a file cannot be read.
    """
    allowed = {key: value for key, value in values.items() if key == ALLOW_CODE}
    of_files = [(f"file {path}", merge_sources([path], None, allowed)) for path in reversed(files)]
    return [("command", merge_sources(None, None, values)), *of_files]


def recorded_sources(plan: Plan, given: Sequence[Source]) -> dict[str, dict[str, list[Any]]]:
    """Return stage -> key -> [value, source] for result.json, without RecBole's defaults.

    Args:
        plan: the plan of the run.
        given: see :func:`settings_of_stages`. If empty, the request's values count as the caller's.
    """
    request = plan.request
    known = given or [("caller", {**request.given, "teacher_config": request.teacher_given})]
    return {
        stage: {key: [setting.value, setting.source] for key, setting in settings.items() if setting.source != RECBOLE}
        for stage, settings in settings_of_stages(plan, known).items()
    }


def _of_teacher(given: Sequence[Source]) -> Iterator[Source]:
    """Yield the user's values for the teachers, their own keys before the run's keys."""
    for source, values in given:
        yield source, values.get("teacher_config") or {}
    for source, values in given:
        yield source, {key: value for key, value in values.items() if key in SHARED}


def _property_files(names: Sequence[str]) -> Iterator[Source]:
    """Yield our property files, the strongest first, with the file of a pair named as such."""
    for name in reversed(names):
        if name == "overall":
            yield OWN, layers(name)[0]
            continue
        pair = name.startswith("distiller/") and "-" in name
        yield f"{'pair file' if pair else 'property file'} {name}.yaml", layers(name)[0]


def _settings(config: Any, sources: Sequence[Source]) -> dict[str, Setting]:
    values: dict[str, Any] = config.final_config_dict
    every = [*sources, (RECBOLE, recbole_defaults(str(config["model"]), str(config["dataset"])))]
    flat = [(source, _dotted(of_source)) for source, of_source in every]
    found: dict[str, Setting] = {}
    for key, value in _dotted(values).items():
        strongest = next(((source, of_source[key]) for source, of_source in flat if key in of_source), None)
        if strongest is not None:
            source, named = strongest
            found[key] = Setting(value, source if _same(named, value) else f"adapted from {source}")
    return dict(sorted(found.items()))


def _dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in MERGED and isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def _same(named: Any, value: Any) -> bool:
    """Return whether a value equals that of its source; RecBole writes a mode once per phase."""
    if isinstance(value, Mapping) and set(value) == {"valid", "test"} and isinstance(named, str):
        named = dict.fromkeys(value, named)
    return json.dumps(named, default=str, sort_keys=True) == json.dumps(value, default=str, sort_keys=True)
