"""Distillation through RecBole's own functions: from their Config to a teacher.

Data, split and evaluation of such a run are RecBole's. ``eval_args``, filters, metrics and patience are the same with
and without ``kd``, so that both runs can be compared. The property files of a method and its pair of student and
teacher apply below everything that the user sets.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import get_model
from recbole.utils.argument_list import dataset_arguments

from recbole_kd.config.code_names import allows_code, methods_in, refuse_code, refuse_permission
from recbole_kd.config.key_rules import OF_PROCESSES
from recbole_kd.config.known_keys import RECBOLE_KEYS
from recbole_kd.config.merging import merge_sources
from recbole_kd.config.property_layers import (
    check_training_keys,
    distiller_layers,
    layers,
    public_name,
    student_layers,
)
from recbole_kd.config.request_names import CONTROL
from recbole_kd.config.schema import AUTO_WEIGHT
from recbole_kd.config.validation import shown
from recbole_kd.data.recbole_split import generators_kept, split_behind
from recbole_kd.distiller.registry import distiller_class
from recbole_kd.errors import ConfigError
from recbole_kd.integration.register import register
from recbole_kd.integration.safe_load import load_checkpoint
from recbole_kd.model.loss_reduction import with_decay_for_mean
from recbole_kd.pipeline.assistant import ensure_assistant
from recbole_kd.pipeline.model_choices import student_model
from recbole_kd.pipeline.plan import make_plan
from recbole_kd.pipeline.request import Request, make_request, without_negatives
from recbole_kd.pipeline.request_checks import check_effects, check_student_keys
from recbole_kd.pipeline.stages import ensure_teachers
from recbole_kd.pipeline.training_entries import RunContext
from recbole_kd.serving.earlier_student import KEY as INIT_FROM
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.load import HISTORY_ARGUMENTS, load_teacher, named_at
from recbole_kd.teacher.stores.lists import treat_unlisted
from recbole_kd.training.build_distiller import RUN_DEFAULTS, known_kd_keys, no_auto_weight

OF_RECBOLE = frozenset(
    {
        *dataset_arguments, "eval_args", "metrics", "topk", "valid_metric", "metric_decimal_place", "eval_step",
        "gpu_id", "use_gpu", "worker", "reproducibility", "state", "show_progress",
    } - set(HISTORY_ARGUMENTS)
)  # fmt: skip
"""Keys whose value in RecBole's Config also applies to the teacher, whether the user gave it or not."""

OF_SCRIPTS = frozenset(
    {"params_file", "output_file", "display_file", "tool", "max_evals", "group_offset", "config_files"}
)
"""Arguments of RecBole's own scripts, which its Config reads together with all others."""

OF_ONE_PROCESS: dict[str, Any] = {"nproc": 1, "single_spec": True, "local_rank": 0}
"""Models other than the student are trained by one process. If RecBole runs several, the first that needs one trains
it."""

DOTTED = ("teacher",)
"""Allowed prefixes of dotted keys. RecBole's Config accepts any other dotted key without reading it."""


def property_values(config: Config, model: str, model_class: type, dataset: str) -> dict[str, Any]:
    """Return our property values for a Config that names a method, after checking its keys.

    Args:
        config: RecBole's Config under construction. It holds the user's keys, but not their final values.
        model: name of the model.
        model_class: its class.
        dataset: name of the data set.

    Raises:
        KDError: a wrong key or value, an unsuitable student, or a missing teacher. The message is one sentence.
    """
    allowed = allows_code(config.variable_config_dict, config.cmd_config_dict)
    refuse_permission(config.file_config_dict, "config_file_list")
    refuse_code(methods_in(config.file_config_dict), "config_file_list", allowed)
    values = _given(config, model, model_class, dataset)
    kd = values["kd"]
    distiller_class(kd)
    _make_known(model_class)
    student_model(public_name(model), values["setting"])
    if values.get("teacher") or values.get("teacher_path"):
        make_request(values)
    else:  # the distiller is built by hand, so only its keys are checked
        check_student_keys(values, public_name(model), kd, dataset, values["setting"])
        check_effects(values, public_name(model), kd, dataset)
    _refuse_unread(config.external_config_dict)  # last: the values are of the right types now
    asked = config.external_config_dict.get("setting")
    found, files = _layers(values, model, dataset, _teacher_name(values), asked)
    if files:
        getLogger().info(f"Property files of recbole_kd that apply: {', '.join(files)}")
    defaults = with_decay_for_mean(found, values)
    return without_negatives(public_name(model), dataset, defaults, values) | {"recbole_data": True}


def _given(config: Config, model: str, model_class: type, dataset: str) -> dict[str, Any]:
    """Return all keys that the user gave, with the setting that follows from them.

    Raises:
        ConfigError: a dotted key, which RecBole would ignore, or a setting that does not fit the model.
    """
    strict = {**config.file_config_dict, **config.variable_config_dict}
    given = dict(config.external_config_dict)
    for key in list(given):
        if "." in key and key.partition(".")[0] not in DOTTED:
            raise ConfigError(
                f"{key}={given[key]!r} has no effect: RecBole's own functions do not read dotted keys, write "
                f"{key.partition('.')[0]}: {{{key.partition('.')[2]}: ...}}"
            )
        if key in OF_SCRIPTS or (key not in strict and not _is_ours(key) and key not in RECBOLE_KEYS):
            del given[key]  # from the command line, which the user's own script may read too
    for key in OF_PROCESSES:  # RecBole's launcher sets them for its own processes
        given.pop(key, None)
    values = merge_sources(None, given, {"model": model, "dataset": dataset, "kd_compare": False})
    if values.get(INIT_FROM) is not None:
        raise ConfigError(
            f"{INIT_FROM}={values[INIT_FROM]} has no effect in RecBole's own functions, which make the student's first "
            "weights: leave it out, or run recbole-kd"
        )
    if values.get("kd_weight") == AUTO_WEIGHT:
        raise no_auto_weight("RecBole's own functions train the student once")
    sequential = issubclass(model_class, SequentialRecommender)
    setting = values.setdefault("setting", "sequential" if sequential else "general")
    if sequential and setting == "general":
        face = f", or take {model}General, its general form" if public_name(f"{model}General") == model else ""
        raise ConfigError(f"setting=general is not possible with {model}, a sequential model: leave it out{face}")
    return values


def _refuse_unread(given: Mapping[str, Any]) -> None:
    """Refuse keys that RecBole's own functions pass over.

    ``output_dir`` is only warned of: other programs may read it from the same file.

    Args:
        given: what the user gave to RecBole.

    Raises:
        ConfigError: a key asks for something that a run of ours makes, and RecBole's functions do not.
    """
    compare = given.get("kd_compare")
    if compare is not None and compare is not False:
        raise ConfigError(
            f"kd_compare={shown('kd_compare', compare)} has no effect in RecBole's own functions, which train "
            "one model: leave it out, and call them without kd for the student trained alone"
        )
    if "teacher_ranks" in (given.get("kd_track") or ()):
        raise ConfigError(
            "kd_track=teacher_ranks has no effect in RecBole's own functions, which write no report: leave it out, or "
            "take run_recbole_kd"
        )
    if given.get("nproc") not in (None, 1) and "local_rank" not in given:
        raise ConfigError(
            f"nproc={given['nproc']} has no effect in RecBole's run_recbole, which trains in this process: call "
            f"recbole.quick_start.run(..., nproc={given['nproc']}), or run_recbole_kd with this key"
        )
    if given.get("download"):
        raise ConfigError(
            "download=True has no effect in RecBole's own functions, which download by themselves: leave it out, or "
            f"run recbole-kd prepare {given.get('dataset', 'NAME')} --download"
        )
    if given.get("output_dir") is not None:
        getLogger().warning(
            f"output_dir={given['output_dir']} has no effect in RecBole's own functions, which write into "
            "checkpoint_dir: set that, or leave it out"
        )


def _is_ours(key: str) -> bool:
    return key.startswith(("kd_", "teacher")) or key in CONTROL


def _make_known(model_class: type) -> None:
    """Register a user's own class, which RecBole got as a class and cannot find by name."""
    if not model_class.__module__.startswith("recbole."):
        register([model_class])


def _layers(
    values: Mapping[str, Any], model: str, dataset: str, teacher: str, setting: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the property values of student, method, pair, protocol and setting.

    Protocol and setting count only if the user asks for them.
    """
    asked = [f"protocol/{values.get('eval_protocol', 'recbole')}", *([f"setting/{setting}"] if setting else [])]
    protocol, files = layers(*asked)
    _, of_student = student_layers(model, dataset)
    student, used = layers(*(name for name in of_student if name.startswith("model/")))
    check_training_keys(values["kd"], dataset, model, teacher, values)
    method, also = distiller_layers(values["kd"], dataset, model, teacher)
    return {**protocol, **student, **method}, [*files, *used, *also]


def _teacher_name(values: Mapping[str, Any]) -> str:
    """Return the teacher's name as in the file name of a pair's property file."""
    names = values.get("teacher")
    if names:
        return ",".join(names) if isinstance(names, list) else str(names)
    path = values.get("teacher_path")
    if not path:
        return ""
    if str(path).endswith(".pth"):
        return (
            str(load_checkpoint(Path(path).expanduser(), "cpu", mmap=True)["config"]["model"])
            if Path(path).expanduser().is_file()
            else ""
        )
    return named_at(Path(path).expanduser())


@dataclass(frozen=True)
class RecBoleRequest(Request):
    """A request whose student is configured by RecBole's own Config.

    Attributes:
        config: RecBole's Config of the student.
    """

    config: Any = None

    @property
    def takes_search(self) -> bool:
        """False: RecBole's functions train the student once."""
        return False

    def student_config(self) -> tuple[Config, list[str]]:
        """Return RecBole's Config without the keys of the method."""
        return _changed(self.config, {}, without={"kd", *known_kd_keys(self.kd)}), []

    def distilled_config(self, teacher: str, changes: Mapping[str, Any] | None = None) -> tuple[Config, list[str]]:
        """Return RecBole's Config. With changes it is that of the student's assistant."""
        return _changed(self.config, changes or {}), []


def _changed(config: Config, changes: Mapping[str, Any], without: Collection[str] = ()) -> Config:
    """Return a copy of a Config with other values, and without some keys."""
    other = copy.copy(config)
    values = copy.deepcopy(config.final_config_dict)
    kept = {key: value for key, value in values.items() if key not in without}
    read_by_stages = ("eval_protocol", "eval_memory_mb")
    of_methods = {
        key: value for key, value in layers("overall")[0].items() if key.startswith("kd_") or key in read_by_stages
    }
    of_methods["kd_weight"] = RUN_DEFAULTS["kd_weight"]  # the student is trained once, without a search
    other.final_config_dict = {**of_methods, "kd_compare": False, **kept, **OF_ONE_PROCESS, **changes}
    return other


def names_teacher(config: Config) -> bool:
    """Return whether a configuration names a teacher to train or a saved one."""
    return bool(config["teacher"] or config["teacher_path"])


def no_teacher(config: Config) -> ConfigError:
    """Return the error for a configuration with a method and without a teacher."""
    return ConfigError(
        f"kd={config['kd']} needs a teacher: name a model to train as teacher (teacher: LightGCN), or a saved one "
        "(teacher_path: ...); a distiller of your own goes into recbole_kd.KDTrainer(config, model, distiller), or "
        "into recbole_kd.distil(trainer, distiller)"
    )


def request_of(config: Config) -> RecBoleRequest:
    """Return the checked request of a RecBole Config.

    Raises:
        KDError: a wrong key or value. The message is one sentence.
    """
    values = _given(config, config["model"], get_model(config["model"]), config["dataset"])
    if values.get("time_order") == "exact":
        raise ConfigError(
            "time_order=exact has no effect in RecBole's own functions, which order by their float32 values of the "
            "times: leave it out, or set time_order=recbole"
        )
    seed = values.get("split_seed")
    if seed is not None and seed != config["seed"] and config["eval_args"]["order"] == "RO":
        raise ConfigError(
            f"split_seed={seed} has no effect in RecBole's own functions, which split by seed={config['seed']}: leave "
            "it out, or set eval_args order to TO, which is the same for every seed"
        )
    request = make_request(values)
    of_recbole = {key: config[key] for key in OF_RECBOLE if key in config}
    place = {} if config["dataset"] == "ml-100k" else {"data_path": str(Path(config["data_path"]).parent)}
    given = {**request.given, **of_recbole, **place, "split_seed": config["seed"], "time_order": "recbole", "nproc": 1}
    return RecBoleRequest(**{**vars(request), "given": given}, config=config)


def teacher_for(request: RecBoleRequest, train_data: Any) -> TeacherScores:
    """Return a request's teacher: saved, or from the cache, trained now if necessary.

    The states of all random generators are restored, so that the student trains the same whether the teacher was in the
    cache or not.

    Args:
        request: the request.
        train_data: the student's training loader, from RecBole's ``data_preparation``.

    Raises:
        KDError: the teacher does not fit these data, or cannot be trained. The message is one sentence.
    """
    method = distiller_class(request.kd)
    with generators_kept():
        if request.teacher is None and not method.assistant:
            teacher = load_teacher(str(request.run["teacher_path"]), train_data, request.config["device"])
            treat_unlisted(teacher, request.run["teacher_unlisted"])
            method.check_teacher(teacher)
            return teacher
        plan = make_plan(request, split_behind(train_data))
        run = request.run
        folder = Path(request.config["checkpoint_dir"])
        context = RunContext(plan.splits, plan.cache, folder, bool(run["resume"]), run["teacher_ray_address"])
        store, dtype = run["teacher_store"], run["teacher_dtype"]
        teacher, _ = plan.saved or ensure_teachers(
            plan.teachers, context, store, dtype, plan.n_checkpoints, run["teacher_svd"]
        )
        if plan.assistant is not None:
            teacher, _ = ensure_assistant(plan.assistant, context, teacher, store, dtype)
        return teacher
