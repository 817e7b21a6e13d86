"""Checks of a request's names, keys and values, before anything is loaded or trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from recbole.model.abstract_recommender import ContextRecommender, SequentialRecommender
from recbole.utils import ModelType
from recbole.utils.argument_list import dataset_arguments

from recbole_kd.config.key_rules import check_by_user, check_direction, check_index_keys, check_metrics, check_unread
from recbole_kd.config.known_keys import RECBOLE_KEYS, check_keys, keys_of
from recbole_kd.config.model_catalogue import OWN_DISTILLATION, recbole_defaults
from recbole_kd.config.property_layers import distiller_layers, layers, public_name, student_layers, teacher_layers
from recbole_kd.config.request_names import allowed_keys, check_known_keys, student_defaults
from recbole_kd.config.schema import KD_RUN_KEYS, TEACHER_RUN_KEYS, check_values
from recbole_kd.config.validation import invalid
from recbole_kd.data.context_columns import SOURCES, side_files
from recbole_kd.data.item_features.configured import GIVEN_KEYS
from recbole_kd.distiller.base import Distiller, no_embeddings, no_modalities
from recbole_kd.distiller.registry import check_given_options, check_idle, distiller_class
from recbole_kd.errors import ConfigError
from recbole_kd.pipeline.dataset_files import folder_of
from recbole_kd.pipeline.model_choices import model_class, reads_sides, student_model
from recbole_kd.scoring.vector_models import has_vectors
from recbole_kd.teacher.export import check_dtype, no_factors, no_online_store, resolve_store
from recbole_kd.teacher.load import HISTORY_ARGUMENTS
from recbole_kd.teacher.stores.lists import no_unlisted
from recbole_kd.training.build_distiller import known_kd_keys, no_teacher_index

OF_THE_SPLIT = frozenset(
    {*dataset_arguments, "dataset", "data_path", "eval_args", "split_seed", "time_order", "encoding"}
    - set(HISTORY_ARGUMENTS)
)
"""Keys that a teacher cannot set, because all models of a run share one data set and one split."""

OF_THE_RUN = frozenset(
    {"cache_dir", "output_dir", "resume", "download", "init_from", "allow_unknown", *TEACHER_RUN_KEYS}
)
"""Keys that only the run has, not a teacher."""


def check_teachers(values: Mapping[str, Any], kd: str, method: type[Distiller], setting: str) -> None:
    """Refuse teachers that do not fit the method or the store (ConfigError)."""
    names = str(values["teacher"]).split(",")
    for name in names:
        taught = model_class(name, "teacher", setting)
        if values.get("teacher_store") == "factors" and not has_vectors(taught):
            raise no_factors(name)
        store = store_of(taught, values)
        _check_kept(name, taught, store, values.get("teacher_ray_address"))
        _check_sides(name, taught, values)
        check_dtype(str(values.get("teacher_dtype", "fp32")), store, name)
        if values.get("kd_index_teacher") is True and store != "factors":
            raise no_teacher_index(name, store)
        if "modalities" in method.requires and not hasattr(taught, "modality_vectors"):
            raise ConfigError(no_modalities(f"--kd={kd}", name))
        kept = values.get("teacher_svd") is not None or (has_vectors(taught) and store != "dense")
        if "embeddings" in method.requires and not kept:
            raise ConfigError(no_embeddings(f"--kd={kd}", name, store, _factors_of(taught, store)))
    if values.get("teacher_unlisted") is not None:
        raise ConfigError(no_unlisted(values["teacher_unlisted"], values["teacher"]))
    if len(names) > 1 and not method.several:
        raise ConfigError(
            f"--kd={kd} learns from one teacher and --teacher={values['teacher']} names {len(names)}: name one of them"
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"--teacher={values['teacher']} names a model twice: name each once")


def _factors_of(taught: type, store: str) -> str:
    """Return what to type so that a teacher of this class has vectors."""
    if has_vectors(taught):
        return "keep its vectors with --teacher_store=factors"
    kept = "--teacher_store=dense " if store == "online" else ""
    return f"make factors of its scores with {kept}--teacher_svd=64"


def check_features(values: Mapping[str, Any], setting: str) -> None:
    """Refuse item features that are not read, or given in two ways (ConfigError).

    The two ways are a text encoder and feature files.
    """
    given = [key for key in GIVEN_KEYS if values.get(key) is not None]
    if not given:
        return
    names = [public_name(values["model"]), *(values["teacher"].split(",") if values.get("teacher") else [])]
    models = [student_model(names[0], setting), *(model_class(name, "teacher", setting) for name in names[1:])]
    if not values.get("teacher_path") and not any(getattr(model, "reads_item_features", False) for model in models):
        reason = f"it has no effect on {' and '.join(dict.fromkeys(names))}, which do not read item features"
        raise invalid(given[0], values[given[0]], reason, f"Take a model such as BM3, or leave {given[0]} out")
    files = {**student_layers(names[0], values["dataset"], setting=setting)[0], **values}.get("item_features")
    if values.get("text_encoder") is not None and files is not None:
        reason = "it has no effect together with item_features, which names files"
        raise invalid(
            "text_encoder", values["text_encoder"], reason, "Try --item_features=~, or leave text_encoder out"
        )


def _check_kept(name: str, taught: type, store: str, address: str | None) -> None:
    """Raise errors of a teacher's export before its training (ConfigError)."""
    if store == "online" and (taught.type == ModelType.TRADITIONAL or reads_sides(taught)):  # type: ignore[attr-defined]
        raise no_online_store(name)
    if address and store != "dense":
        raise ConfigError(
            f"teacher_ray_address={address} has no effect on {name} in a store of kind {store}: workers make the "
            "blocks of a dense one, set teacher_store=dense, or leave it out"
        )


def _check_sides(name: str, taught: type, values: Mapping[str, Any]) -> None:
    """Refuse what a knowledge-aware or context-aware teacher cannot be (ConfigError)."""
    if name == OWN_DISTILLATION:
        raise ConfigError(
            f"--teacher={name} is not possible: it is a distillation of its own, with a teacher and three phases; "
            "take another context-aware model, such as DeepFM"
        )
    if not reads_sides(taught) or values.get("load_col") is None:
        return
    columns = dict(values["load_col"])
    if issubclass(taught, ContextRecommender) and not {"user", "item"} & set(columns):
        named = [f"{part}: [{', '.join(names)}]" for part, names in columns.items() if isinstance(names, list)]
        folder = folder_of(values["dataset"], str(values.get("data_path") or "dataset/"))
        there = side_files(folder, values["dataset"]) or SOURCES  # none: the plan says that they are missing
        asked = ", ".join([*named, *(f"{source}: '*'" for source in there)])
        raise ConfigError(
            f"--teacher={name} learns from columns of users and items, and load_col={columns} names none: add them, "
            f'--load_col="{{{asked}}}", or leave load_col out, which reads all of them'
        )


def store_of(taught: type, values: Mapping[str, Any]) -> str:
    """Return the kind of store for a teacher of this class."""
    return resolve_store(
        values.get("teacher_store", "auto"), has_vectors(taught), issubclass(taught, SequentialRecommender)
    )


def check_svd(values: Mapping[str, Any], kd: str, method: type[Distiller], setting: str) -> None:
    """Refuse ``teacher_svd`` for teachers not trained here or without scores (ConfigError)."""
    width = values.get("teacher_svd")
    if width is None:
        return
    if str(values.get("teacher_path")).endswith(".pth"):
        raise ConfigError(
            f"teacher_svd={width} is not possible with a checkpoint (--teacher_path=*.pth): name its model as "
            "--teacher instead"
        )
    if values.get("teacher_path"):
        raise ConfigError(
            f"teacher_svd={width} has no effect on a saved teacher (--teacher_path): run `recbole-kd convert-teacher "
            f"{values['teacher_path']} --out=FOLDER --svd={width}` and give that folder"
        )
    if "trajectory" in method.requires:
        raise ConfigError(
            f"teacher_svd={width} is not possible with kd={kd}, which needs the teacher's checkpoints unchanged: "
            "leave it out"
        )
    for name in str(values["teacher"]).split(","):
        if store_of(model_class(name, "teacher", setting), values) == "online":
            raise ConfigError(
                f"teacher_svd={width} is not possible with {name} in an online store: take teacher_store=dense"
            )


def check_student_keys(values: Mapping[str, Any], model: str, kd: str, dataset: str, setting: str) -> None:
    """Refuse unknown keys and invalid values of a student and its method (ConfigError)."""
    defaults = student_defaults(model, dataset, setting)
    kd_keys = known_kd_keys(kd)
    check_known_keys(values, model, kd, kd_keys, defaults)
    options = kd_keys - set(KD_RUN_KEYS)
    check_values(
        {key: value for key, value in values.items() if key not in options},
        defaults,
        model=model,
        context={"nlist": values.get("kd_nlist")},
    )
    check_given_options(distiller_class(kd), values)
    check_metrics(values, defaults)
    check_direction(values, defaults)
    check_unread(values)
    check_by_user(model, values.get("train_by_user"))
    check_index_keys({**layers("overall")[0], **values})


def check_effects(values: Mapping[str, Any], model: str, kd: str, dataset: str, drawn: Collection[str] = ()) -> None:
    """Refuse options of the method that the user gave and that nothing reads beside the others.

    Args:
        values: what the user gave, checked. model, kd, dataset: names.
        drawn: keys whose values a search drew: one that other drawn values make idle is no mistake.

    Raises:
        ConfigError: such an option is given.
    """
    teacher = values.get("teacher") or ""
    defaults = distiller_layers(kd, dataset, model, ",".join(teacher) if isinstance(teacher, list) else teacher)[0]
    of_trial = {key: value for key, value in values.items() if key in drawn}
    given = {key: value for key, value in values.items() if key.startswith("kd_") and key not in drawn}
    check_idle(distiller_class(kd), given, {**defaults, **of_trial})


def check_teacher_keys(values: Mapping[str, Any], dataset: str, setting: str) -> None:
    """Refuse unknown keys and invalid values of a teacher (ConfigError)."""
    given = values.get("teacher_config") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"teacher_config={given!r} is not a mapping: write {{embedding_size: 256}} or --teacher.embedding_size=256"
        )
    if given and values.get("teacher_path"):
        raise ConfigError(
            f"teacher.{next(iter(given))} has no effect on a saved teacher (--teacher_path): leave one of them out"
        )
    if values.get("teacher") and values.get("teacher_path"):
        raise ConfigError(
            f"teacher={values['teacher']} has no effect together with teacher_path={values['teacher_path']}, which is "
            "the teacher: leave one out"
        )
    if "model" in given:
        raise ConfigError(f"teacher.model={given['model']} has no effect: name the teacher's model as --teacher")
    of_run = sorted(key for key in given if key in OF_THE_RUN)
    if of_run:
        raise ConfigError(
            f"teacher.{of_run[0]} has no effect: it is a key of the whole run, set --{of_run[0]}, or leave it out"
        )
    shared = sorted(OF_THE_SPLIT & set(given))
    if shared:
        raise ConfigError(
            f"teacher.{shared[0]} is not possible: all models of a run share its data and split; set --{shared[0]}, or "
            "leave it out"
        )
    for name in str(values["teacher"]).split(",") if given else []:
        defaults = {**recbole_defaults(name, dataset), **teacher_layers(name, dataset, setting=setting)[0]}
        known = {*RECBOLE_KEYS, *defaults, *keys_of(name)} - set(KD_RUN_KEYS)
        allowed = allowed_keys(values, "teacher.")
        check_keys(
            given,
            known,
            what=f"key of the teacher {name}",
            allow=allowed,
            prefix="teacher.",
            elsewhere=TEACHER_RUN_KEYS,
        )
        check_values(given, defaults, prefix="teacher.", model=public_name(name))
        check_metrics(given, defaults, "teacher.")
        check_direction(given, defaults, "teacher.")
        check_unread(given, "teacher.")
        check_by_user(public_name(name), given.get("train_by_user"), "teacher.")
