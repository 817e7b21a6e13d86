"""Checks of the names and keys of a request, which need neither RecBole nor PyTorch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from recbole_kd.config.dataset_name import check_dataset_name
from recbole_kd.config.known_keys import RECBOLE_KEYS, check_keys, keys_of, unknown_name_error
from recbole_kd.config.model_catalogue import recbole_defaults, recbole_model_names
from recbole_kd.config.property_layers import layers, public_name, student_layers
from recbole_kd.config.schema import KD_RUN_KEYS, RUN_KEYS, TEACHER_RUN_KEYS, check_values
from recbole_kd.config.validation import invalid, try_value
from recbole_kd.errors import ConfigError

CONTROL = ("model", "teacher", "kd", "dataset", "setting", "config_files", "teacher_config", "command")


def check_named(values: Mapping[str, Any]) -> None:
    """Refuse a run without a student, a method, a data set or a teacher (ConfigError)."""
    for key in ("model", "dataset", "kd"):
        if _is_empty(values.get(key)):
            raise ConfigError(
                f"--{key} is missing: a run needs --model=<student> --teacher=<model> --kd=<method> --dataset=<name>; "
                "see --list"
            )
    if _is_empty(values.get("teacher")) and _is_empty(values.get("teacher_path")):
        raise ConfigError(
            "--teacher is missing: name a model to train as teacher (--teacher=LightGCN), or a saved one "
            "(--teacher_path=...)"
        )


def _is_empty(value: object) -> bool:
    """Return whether no name is given.

    A given value may still be of a wrong type, even one without a truth value.
    """
    return value is None or (isinstance(value, str | list) and not value)


def check_one_run(values: Mapping[str, Any]) -> None:
    """Refuse several methods or seeds for one run (ConfigError), and name the verb for them."""
    for key, what, example in (("kd", "method", "RCEKD,RRD"), ("seed", "seed", "0,1,2")):
        given = values.get(key)
        if isinstance(given, list) or (isinstance(given, str) and "," in given):
            names = ",".join(map(str, given)) if isinstance(given, list) else "".join(given.split())
            reason = f"expected one {what}, since a run has one"
            advice = f"Try recbole-kd compare --{key}={names or example}, which runs each and tests the differences"
            raise invalid(key, given, reason, advice)


def teacher_names(given: str | list[str] | None) -> str | None:
    """Return one or several names, given with commas or as a list, joined by commas."""
    if not given:
        return None
    names = given.split(",") if isinstance(given, str) else given
    if not all(name.strip() for name in names):
        raise invalid("teacher", given, "one of the names is empty", try_value("teacher", "MF,LightGCN"))
    return ",".join(name.strip() for name in names)


def allowed_keys(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the keys with this prefix that ``allow_unknown`` names, without the prefix."""
    allowed = values.get("allow_unknown") or ()
    names = [allowed] if isinstance(allowed, str) else list(allowed)
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def student_defaults(model: str, dataset: str, setting: str) -> dict[str, Any]:
    """Return the property values of a student trained alone, RecBole's and ours merged."""
    return {**recbole_defaults(model, dataset), **student_layers(model, dataset, setting=setting)[0]}


def check_known_keys(
    values: Mapping[str, Any], model: str, kd: str, kd_keys: Collection[str], defaults: Mapping[str, Any]
) -> None:
    """Refuse a key that neither RecBole, nor the student, nor the method knows (ConfigError).

    Args:
        values: what the user gave, merged. model, kd: names. kd_keys: all keys that the method knows. defaults: the
            property values, see :func:`student_defaults`.
    """
    check_keys([k for k in values if k.startswith("kd_")], kd_keys, what=f"key of the method {kd}", may_allow=False)
    known = {*RECBOLE_KEYS, *defaults, *keys_of(model), *kd_keys, *CONTROL, *RUN_KEYS}
    of_teacher = [f"teacher.{key}" for key in known - set(TEACHER_RUN_KEYS)]
    check_keys(values, known, what="key", allow=allowed_keys(values), elsewhere=of_teacher)


def check_typing(values: Mapping[str, Any], methods: Collection[str], no_method: Collection[str]) -> None:
    """Refuse a misspelt name or key before seconds are spent on imports (ConfigError).

    Everything that passes is checked again, with the classes, by :func:`recbole_kd.pipeline.request.make_request`.

    Args:
        values: what the user gave, merged. methods: names of the methods of this package. no_method: names, in lower
            case, that mean no method; they have an error of their own later.
    """
    check_named(values)
    check_one_run(values)
    check_values({key: value for key, value in values.items() if key in RUN_KEYS}, layers("overall")[0])
    check_dataset_name(values["dataset"])
    models = recbole_model_names()
    for role in ("model", "teacher"):
        for name in _names(values.get(role)):
            if name not in models:
                raise unknown_name_error(role, name, models)
    kd, dataset = values["kd"], values["dataset"]
    if not kd.isidentifier() or kd.lower() in no_method:
        return  # a class of the user's own, methods combined, or an error of its own
    if kd not in methods:
        raise unknown_name_error("kd", kd, methods)
    kd_keys = {*KD_RUN_KEYS, *(key for key in layers(f"distiller/{kd}")[0] if key.startswith("kd_"))}
    model, setting = public_name(values["model"]), values.get("setting") or "general"
    check_known_keys(values, model, kd, kd_keys, student_defaults(model, dataset, setting))


def _names(given: object) -> list[str]:
    """Return the names of models, if they are given as a text with commas or as a list of texts."""
    names = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else []
    return [name.strip() for name in names if isinstance(name, str)]
