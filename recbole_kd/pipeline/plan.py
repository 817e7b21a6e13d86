"""The plan of a request, checked against the data before anything is trained."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import ModelType, get_model, get_trainer

from recbole_kd.acceleration.accelerate import accelerate_on_cpu
from recbole_kd.config.optional_packages import check_packages
from recbole_kd.config.property_layers import public_name
from recbole_kd.data.histories.sequence_dataset import SequenceDataset, stage_parts
from recbole_kd.data.item_features.configured import record_features
from recbole_kd.data.label_checks import check_labels
from recbole_kd.data.split_and_loaders import Splits, check_negatives, split_data
from recbole_kd.distiller.base import Distiller
from recbole_kd.distiller.registry import distiller_class
from recbole_kd.distiller.small_data import cut_defaults, words_of_cut
from recbole_kd.distributed.loss_terms import can_be_shared
from recbole_kd.errors import ConfigError
from recbole_kd.evaluation.full_ranking import check_protocol
from recbole_kd.evaluation.mode_checks import check_modes
from recbole_kd.model.build_model import fresh_model
from recbole_kd.model.size_checks import check_model_sizes
from recbole_kd.pipeline.assistant import assistant_values, width_of
from recbole_kd.pipeline.cluster_checks import check_cluster_keys, connect_clusters
from recbole_kd.pipeline.model_choices import reads_sides
from recbole_kd.pipeline.request import Request
from recbole_kd.pipeline.stages import saved_teacher
from recbole_kd.pipeline.student_start import StudentStart, student_start
from recbole_kd.pipeline.weight_checks import check_auto_weight, search_by_default
from recbole_kd.scoring.vector_models import has_vectors, softmax_of
from recbole_kd.serving.earlier_student import KEY as INIT_FROM
from recbole_kd.storage.cache import cache_folder
from recbole_kd.storage.places import user_path
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.export import check_address
from recbole_kd.teacher.truncated_svd import check_width
from recbole_kd.training.build_distiller import check_distiller
from recbole_kd.training.first_step import check_first_scores, check_first_step
from recbole_kd.training.pretraining import stages_of

N_CHECKPOINTS = 3
"""Number of a teacher's checkpoints if a method needs its trajectory and has no ``kd_n_checkpoints``."""

ROWS_TO_TRY = 10_000
"""Interactions with which a model is built to check its constructor."""


@dataclass(frozen=True)
class Plan:
    """The models that a run trains, with its data and its folders.

    Attributes:
        request: the request.
        property_files: our property files that apply, by stage.
        cache: folder of finished models.
        output: parent of the run's folder.
        splits: the data.
        alone, distilled: Configs of the student without and with distillation.
        teachers: Configs of the teachers to train. Empty if the user names a saved teacher.
        saved: scores and metrics of a saved teacher.
        teacher_name: RecBole's name of the teacher, several joined by commas.
        assistant: Config of the assistant, if the method has one.
        n_checkpoints: number of a teacher's checkpoints that the method needs.
        features: digests of the item features that the models read.
        start: first weights of the student, from ``init_from``.
        general_weight: the general default of ``kd_weight`` that a search replaces, because nobody gave a weight.
        weight_note: why it is not, for the log; empty if it is, or if a weight is given or known.
        cut: a sentence on defaults of the method that are cut to the size of the data; empty if none is.
    """

    request: Request
    property_files: dict[str, list[str]]
    cache: Path
    output: Path
    splits: Splits
    alone: Any
    distilled: Any
    teachers: list[Any]
    saved: tuple[TeacherScores, dict[str, Any]] | None
    teacher_name: str
    assistant: Any | None
    n_checkpoints: int
    features: dict[str, str] = field(default_factory=dict)
    start: StudentStart | None = None
    general_weight: float | None = None
    weight_note: str = ""
    cut: str = ""


def make_plan(request: Request, splits: Splits | None = None) -> Plan:
    """Read the data, load a saved teacher and check everything that can be checked.

    Args:
        request: the request.
        splits: the data, if they are read already.

    Raises:
        KDError: bad input. The message is one sentence.
    """
    run = request.run
    cache, output = cache_folder(run["cache_dir"]), user_path(run["output_dir"], "output_dir")
    for key, place in (("cache_dir", cache), ("output_dir", output)):
        _check_writable(key, place)
    alone, student_files = request.student_config()
    teachers, teacher_files = request.teacher_configs()
    check_cluster_keys(run["teacher_ray_address"], alone, teachers)
    for config in (alone, *teachers):
        check_packages(config)
    splits = split_data(alone) if splits is None else splits
    features: dict[str, str] = {}
    for config in (alone, *teachers):
        _check_cutoffs(config, splits.n_items, "--" if config is alone else "--teacher.")
        check_protocol(config)
        check_modes(config, splits.dataset.inter_feat, issubclass(get_model(config["model"]), SequentialRecommender))
        check_negatives(config, splits)
        check_labels(config, splits.dataset)
        features.update(record_features(config, splits.dataset))
    _check_export(teachers, run)
    saved = None
    if not teachers:
        saved = saved_teacher(run["teacher_path"], splits, alone["device"], run["teacher_unlisted"])
    teacher_name = request.teacher or (public_name(saved[0].name) if saved else "")
    distilled, distilled_files, options, cut = _distilled(request, splits, teacher_name, {})
    method = distiller_class(request.kd)
    if saved:
        method.check_teacher(saved[0], options)
    for config in (alone, *teachers):
        prefix = "--" if config is alone else "--teacher."
        _check_processes(config, prefix)
        _check_reduction(config)
        stages_of(config)
        check_model_sizes(config, splits.n_users, splits.n_items, len(splits.parts[0].inter_feat), prefix)
    _check_shared_method(method, request.kd, alone["nproc"] or 1)
    assistant = None
    if method.assistant:
        of_teacher = saved[0].manifest.get("settings", {}) if saved else teachers[0].final_config_dict
        assistant, *_ = _distilled(
            request, splits, teacher_name, assistant_values(distilled.final_config_dict, of_teacher)
        )
    general_weight = distilled["kd_weight"]
    note = search_by_default(request, distilled, assistant, teacher_name)
    check_auto_weight(distilled, assistant)
    _check_models(
        splits,
        teachers,
        [config for config in (alone if distilled["kd_compare"] else None, assistant, distilled) if config],
    )
    start = student_start(run[INIT_FROM], splits, (alone, distilled))
    connect_clusters(run["teacher_ray_address"], (alone, *teachers))
    needed = checkpoints_needed(method, options)
    property_files = {
        "student": student_files,
        **({"teacher": teacher_files} if teachers else {}),
        "distilled": distilled_files,
    }
    return Plan(
        request,
        property_files,
        cache,
        output,
        splits,
        alone,
        distilled,
        teachers,
        saved,
        teacher_name,
        assistant,
        needed,
        features,
        start,
        general_weight if distilled["kd_weight"] != general_weight else None,
        note,
        cut,
    )


def _check_shared_method(method: type[Distiller], kd: str, n_processes: int) -> None:
    """Refuse several processes for a method whose loss has no shards (ConfigError)."""
    if method.needs_items and n_processes > 1:
        raise ConfigError(
            f"nproc={n_processes} is not possible with kd={kd}, whose loss compares all of a batch's rows: take nproc=1"
        )


def _distilled(
    request: Request, splits: Splits, teacher_name: str, changes: Mapping[str, Any]
) -> tuple[Any, list[str], dict[str, Any], str]:
    """Return the distilled student's Config, its property files, checked options and what was cut.

    With changes it is the Config of its assistant.
    """
    config, files = request.distilled_config(teacher_name, changes)
    record_features(config, splits.dataset)
    sizes = splits.n_users, splits.n_items
    values = dict(config.final_config_dict)
    cut = cut_defaults(distiller_class(request.kd), values, config.external_config_dict, *sizes)
    values.update({key: limit for key, (_, limit, _) in cut.items()})
    config.final_config_dict.update({key: values[key] for key in cut})
    return config, files, check_distiller(request.kd, values, *sizes), words_of_cut(cut)


def checkpoints_needed(method: type[Distiller], options: Mapping[str, Any]) -> int:
    """Return how many checkpoints of a teacher's training the method needs."""
    return int(options.get("n_checkpoints", N_CHECKPOINTS)) if "trajectory" in method.requires else 0


def _check_writable(key: str, folder: Path) -> None:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}={folder} cannot be written to: {there} is not a writable folder, name another one")


def _check_export(teachers: list[Any], run: Mapping[str, Any]) -> None:
    """Raise errors of an export before the teacher's training (ConfigError)."""
    address, svd = run["teacher_ray_address"], run["teacher_svd"]
    for config in teachers:
        name, width = public_name(str(config["model"])), width_of(config.final_config_dict)
        check_address(address, config["device"])
        if svd and width is not None and has_vectors(get_model(config["model"])):
            check_width(svd, width - 1, name)


def _check_cutoffs(config: Any, n_items: int, prefix: str) -> None:
    if max(config["topk"]) > n_items:
        raise ConfigError(
            f"topk={config['topk']} is not possible: {config['dataset']} has {n_items} items, choose cut-offs up to "
            f"that. Try {_fitting_cutoffs(config, n_items, prefix)}."
        )


def _fitting_cutoffs(config: Any, n_items: int, prefix: str) -> str:
    """Return the options to type if the cut-offs exceed the catalogue, with the stopping metric."""
    fitting = [k for k in config["topk"] if k <= n_items] or [n_items]
    name, _, k = str(config["valid_metric"]).partition("@")
    metric = "" if k in map(str, fitting) else f" {prefix}valid_metric={name}@{fitting[-1]}"
    return f"{prefix}topk='{fitting}'{metric}"


def _check_models(splits: Splits, teachers: list[Any], students: list[Any]) -> None:
    """Build every model that is trained after another one, to find its errors earlier.

    A model whose score is not known to be a dot product takes one step too, also as the first one, and in mixed
    precision every model does. A knowledge-aware or context-aware teacher is also asked for scores.

    Raises:
        ConfigError: one of them cannot be built, or not be trained in mixed precision.
        TrainingError: one of them cannot compute its loss.
    """
    built: list[dict[str, Any]] = []
    first = [config for config in teachers[:1] if config["enable_amp"] or not has_vectors(get_model(config["model"]))]
    for config in (*first, *teachers[1:], *students):
        kind = get_model(config["model"])
        if kind.type == ModelType.TRADITIONAL:
            continue  # its construction is its training
        own = {
            key: value for key, value in config.final_config_dict.items() if key != "kd" and not key.startswith("kd_")
        }
        if own in built:
            continue
        built.append(own)
        trial = copy.copy(config)  # because building a model writes into its Config
        trial.final_config_dict = copy.deepcopy(config.final_config_dict)
        parts = stage_parts(trial, splits.parts)
        few = [_few_rows(part) for part in parts]
        try:
            model = fresh_model(trial, few[0])
        except ConfigError:
            few = list(parts)
            model = fresh_model(trial, few[0])  # the few rows may have been too few
        accelerate_on_cpu(model, softmax_of(model))
        if _has_plain_trainer(trial["model"]) and (trial["enable_amp"] or not has_vectors(kind)):
            check_first_step(trial, splits, model, few, "--teacher." if config in teachers else "--")
        if reads_sides(kind):
            check_first_scores(model)


def _few_rows(part: Any) -> Any:
    """Return a training part with all users and items but few interactions.

    A constructor may take long to build a graph of all interactions.
    """
    if not isinstance(part, SequenceDataset):
        part = copy.copy(part)
        part.inter_feat = part.inter_feat[:ROWS_TO_TRY]
    return part


def _check_processes(config: Any, prefix: str) -> None:
    n = config["nproc"] or 1
    if n == 1:
        return
    name = str(config["model"])
    # All other models are trained by one process, like in RecBole.
    if _has_plain_trainer(name) and not can_be_shared(get_model(name)):
        raise ConfigError(
            f"nproc={n} is not possible with {public_name(name)}, whose loss is not known to be a mean over rows: the "
            f"losses of several processes may not add up to it, take {prefix}nproc=1"
        )
    if config["enable_scaler"] or config["enable_amp"]:
        raise ConfigError(
            f"nproc={n} is not possible with mixed precision: set enable_amp and enable_scaler to False, or nproc to 1"
        )
    if config["ray_address"] in (None, "local") and config["device"].type == "cuda" and torch.cuda.device_count() < n:
        raise ConfigError(
            f"nproc={n} needs {n} GPUs and gpu_id={config['gpu_id']} names {torch.cuda.device_count()}: name as many"
        )


def _check_reduction(config: Any) -> None:
    name = str(config["model"])
    if config["loss_reduction"] == "sum" and not _has_plain_trainer(name):
        raise ConfigError(
            f"loss_reduction=sum has no effect on {public_name(name)}, which RecBole trains with a special trainer: "
            "leave it out, or set mean"
        )


def _has_plain_trainer(name: str) -> bool:
    return bool(get_trainer(get_model(name).type, name).__name__ == "Trainer")
