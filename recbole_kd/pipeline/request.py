"""The user's request, checked before anything is loaded or trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from recbole.config import Config
from recbole.model.abstract_recommender import ContextRecommender
from recbole.utils import get_model
from recbole.utils.argument_list import dataset_arguments

from recbole_kd.config.dataset_name import check_dataset_name
from recbole_kd.config.model_catalogue import recbole_defaults, recbole_folder
from recbole_kd.config.property_layers import (
    check_training_keys,
    distiller_layers,
    layers,
    public_name,
    recbole_name,
    student_layers,
    teacher_layers,
)
from recbole_kd.config.request_names import CONTROL, check_named, check_one_run, teacher_names
from recbole_kd.config.schema import DEFAULT_WEIGHT, RUN_KEYS, check_values
from recbole_kd.data.context_columns import side_columns
from recbole_kd.data.item_features.configured import GIVEN_KEYS
from recbole_kd.data.own_data import own_data_defaults
from recbole_kd.distiller.registry import distiller_class
from recbole_kd.integration.recbole_config import make_config
from recbole_kd.model.loss_reduction import with_decay_for_mean
from recbole_kd.pipeline.dataset_files import provide_dataset
from recbole_kd.pipeline.model_choices import default_setting, student_model
from recbole_kd.pipeline.request_checks import (
    check_effects,
    check_features,
    check_student_keys,
    check_svd,
    check_teacher_keys,
    check_teachers,
    store_of,
)
from recbole_kd.teacher.export import check_dtype
from recbole_kd.training.build_distiller import RUN_DEFAULTS, check_index, known_kd_keys
from recbole_kd.training.compiled_loss import check_compiler

SHARED = frozenset(
    {
        *dataset_arguments, "data_path", "eval_args", "repeatable", "metrics", "topk", "valid_metric",
        "metric_decimal_place", "gpu_id", "use_gpu", "nproc", "ray_address", "worker", "reproducibility", "state",
        "show_progress", "split_seed", "time_order", "encoding", "eval_protocol", "eval_memory_mb",
        "numerical_features", *GIVEN_KEYS,
    }
)  # fmt: skip
"""Keys of the run that also apply to the teacher: data, split, evaluation, machine. All others are ``teacher.*``."""


OF_CONTEXT: dict[str, Any] = {
    "threshold": None,
    "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "alpha": 1.0},
}
"""Values of a context-aware teacher. RecBole's own train it on labels; here it learns to rank, as the student does."""


@dataclass(frozen=True)
class Request:
    """A checked request.

    Attributes:
        model: the student, by the user's name. RecBole may have another name for the setting.
        teacher: the model to train as teacher, or several with commas. None for a saved one.
        kd: the method.
        dataset: the data set.
        setting: ``general`` or ``sequential``.
        given: the user's keys for the student, ``kd_*`` and run keys included.
        teacher_given: the user's keys for the teacher.
        run: run-level values, defaults included.
    """

    model: str
    teacher: str | None
    kd: str
    dataset: str
    setting: str
    given: Mapping[str, Any]
    teacher_given: Mapping[str, Any]
    run: Mapping[str, Any]

    @property
    def takes_search(self) -> bool:
        """Whether a run may choose the weight of the KD loss by itself, because nobody gave one."""
        return "kd_weight" not in self.given

    def student_config(self) -> tuple[Config, list[str]]:
        """Return the Config of the student without a teacher, and the property files that apply.

        No key of the method affects it.
        """
        defaults, files = student_layers(self.model, self.dataset, self.run["eval_protocol"], self.setting)
        of_method = known_kd_keys(self.kd)
        return self._config(
            self.model, defaults, {key: value for key, value in self.given.items() if key not in of_method}
        ), files

    def _config(self, model: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Config:
        if not (recbole_folder() / "properties" / "dataset" / f"{self.dataset}.yaml").is_file():
            settings = {**recbole_defaults(model, self.dataset), **defaults, **given}
            defaults = {**defaults, **own_data_defaults(self.dataset, settings, defaults, given)}
        if "load_col" not in given and any(issubclass(get_model(name), ContextRecommender) for name in self.teachers):
            settings = {**recbole_defaults(self.model, self.dataset), **defaults, **given}
            defaults = {**defaults, "load_col": side_columns(self.dataset, settings)}
        defaults = without_negatives(model, self.dataset, with_decay_for_mean(defaults, given), given)
        return make_config(recbole_name(model, self.setting), self.dataset, defaults, given)

    @property
    def teachers(self) -> list[str]:
        """The models to train as teachers."""
        return self.teacher.split(",") if self.teacher else []

    def distilled_config(self, teacher: str, changes: Mapping[str, Any] | None = None) -> tuple[Config, list[str]]:
        """Return the Config of the distilled student and the property files that apply.

        The property file of the pair may also set keys of the student.

        Args:
            teacher: name of the teacher.
            changes: values that make it the Config of the student's assistant.
        """
        defaults, applied = student_layers(self.model, self.dataset, self.run["eval_protocol"], self.setting)
        own, own_applied = distiller_layers(self.kd, self.dataset, self.model, teacher)
        given = {**self.given, **(changes or {})}
        if given.get("kd_weight") == DEFAULT_WEIGHT:
            del given["kd_weight"]
        own = {"kd_weight": RUN_DEFAULTS["kd_weight"], **own}  # a number; the plan decides on a search
        check_training_keys(self.kd, self.dataset, self.model, teacher, given)
        return self._config(self.model, {**defaults, **own, "kd": self.kd}, given), applied + own_applied

    def teacher_configs(self) -> tuple[list[Config], list[str]]:
        """Return a Config for each teacher, with its own seed, and the property files that apply.

        ``teacher.*`` keys apply to all of them.
        """
        given = {**{key: value for key, value in self.given.items() if key in SHARED}, **self.teacher_given}
        configs, files = [], list[str]()
        for name in self.teachers:
            defaults, applied = teacher_layers(name, self.dataset, self.run["eval_protocol"], self.setting)
            if issubclass(get_model(recbole_name(name, self.setting)), ContextRecommender):
                defaults = {**OF_CONTEXT, **defaults}
            files = list(dict.fromkeys([*files, *applied]))
            configs.append(self._config(name, {**defaults, "seed": 0}, given))
        return configs, files


def without_negatives(
    model: str, dataset: str, defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return property values, without negative sampling for a full-softmax model.

    That is a sequential model with ``loss_type: CE``.
    """
    values = {**recbole_defaults(model, dataset), **defaults, **given}
    softmax = values.get("loss_type") == "CE" and default_setting(model) == "sequential"
    return (
        {**defaults, "train_neg_sample_args": None}
        if softmax and "train_neg_sample_args" not in given
        else dict(defaults)
    )


def make_request(values: Mapping[str, Any], drawn: Collection[str] = ()) -> Request:
    """Check names, keys, types and ranges of all given values.

    Args:
        values: all keys, merged.
        drawn: those whose values a search drew, see :func:`recbole_kd.pipeline.request_checks.check_effects`.

    Raises:
        ConfigError: one sentence that names the value, the allowed values and the fix.
        DataError: the data set is missing.
    """
    values = dict(values)
    check_named(values)
    check_one_run(values)
    own = layers("overall")[0]
    check_values({key: value for key, value in values.items() if key in RUN_KEYS}, own)
    values["teacher"] = teacher_names(values.get("teacher"))
    model, kd, dataset = public_name(values["model"]), values["kd"], values["dataset"]
    teacher = values["teacher"] if values["teacher"] and not values.get("teacher_path") else None
    setting = values.get("setting") or default_setting(model)
    check_dataset_name(dataset)
    student = student_model(model, setting)
    cls = distiller_class(kd)
    if values.get("teacher"):
        check_teachers(values, kd, cls, setting)
    check_svd(values, kd, cls, setting)
    check_features(values, setting)
    check_student_keys(values, model, kd, dataset, setting)
    check_effects(values, model, kd, dataset, drawn)
    check_index(values, kd, student)
    check_compiler(values)
    cls.check_student(student)
    if cls.assistant:
        check_dtype(str(values.get("teacher_dtype", "fp32")), store_of(student, values), f"the assistant {model}")
    check_teacher_keys(values, dataset, setting)
    provide_dataset(dataset, values.get("data_path") or "dataset/", bool(values.get("download")))
    run = {**own, **{key: value for key, value in values.items() if key in own}}
    given = {key: value for key, value in values.items() if key not in CONTROL}
    return Request(model, teacher, kd, dataset, setting, given, dict(values.get("teacher_config") or {}), run)
