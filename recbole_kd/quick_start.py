"""One distillation from beginning to end: a recipe that reads top to bottom."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.utils import get_model, get_trainer

from recbole_kd.assistant import assistant_values, ensure_assistant, width_of
from recbole_kd.build import check_distiller
from recbole_kd.cache import cache_folder
from recbole_kd.cluster import connect
from recbole_kd.data.features import record_features
from recbole_kd.data.preparation import split_data
from recbole_kd.distiller.base import Distiller
from recbole_kd.distiller.table import distiller_class, resolve_options
from recbole_kd.errors import ConfigError, KDError
from recbole_kd.evaluation import check_protocol
from recbole_kd.log import logging_to
from recbole_kd.model.terms import can_be_shared
from recbole_kd.property_layers import public_name
from recbole_kd.report import versions
from recbole_kd.request import Request, make_request, merge_sources
from recbole_kd.stages import Stage, distill, ensure_student_alone, ensure_teachers, saved_teacher
from recbole_kd.teacher.files import write_json

N_CHECKPOINTS = 3
"""Of a teacher's training, for a method that needs its trajectory and has no ``kd_n_checkpoints``."""


def run_recbole_kd(
    model: str | None = None,
    teacher: str | None = None,
    kd: str | None = None,
    dataset: str | None = None,
    config_file_list: list[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Train (or load) a teacher, train the student alone (or take it from the cache), distil the student, report all three.

    Args:
        model: the student's RecBole name. teacher: the teacher's. kd: the method. dataset: the data set.
        config_file_list, config_dict: any RecBole key, ``kd_*`` keys and ``teacher_config``; dict over files, as in RecBole.
        command: is recorded in the result.

    Returns:
        The content of result.json (see the README); it also names its ``folder``.

    Raises:
        KDError: bad input or a training that cannot go on; one sentence.
    """
    named = {"model": model, "teacher": teacher, "kd": kd, "dataset": dataset}
    values = merge_sources(config_file_list, config_dict, {k: v for k, v in named.items() if v is not None})
    return run_request(make_request(values), command)


def run_request(request: Request, command: str = "", after_epoch: Callable[[int, float], None] | None = None) -> dict[str, Any]:
    """Run a checked request; see :func:`run_recbole_kd`. ``after_epoch`` gets each epoch of the distilled student and its score."""
    cache, output = cache_folder(request.run["cache_dir"]), Path(request.run["output_dir"]).expanduser()
    for key, place in (("cache_dir", cache), ("output_dir", output)):
        _check_writable(key, place)
    if request.run["teacher_ray_address"]:
        connect(request.run["teacher_ray_address"])  # a wrong address is said before anything is trained
    alone = request.student_config()
    teacher_configs = request.teacher_model_configs()
    splits = split_data(alone)
    features: dict[str, str] = {}
    for config in (alone, *teacher_configs):
        _check_cutoffs(config, splits.n_items)
        check_protocol(config)
        features.update(record_features(config, splits.dataset))
    saved = None if teacher_configs else saved_teacher(request.run["teacher_path"], splits, alone["device"])
    teacher_name = request.teacher or (public_name(saved[0].name) if saved else "")
    distilled_config = request.distilled_config(teacher_name)
    record_features(distilled_config, splits.dataset)
    options = check_distiller(request.kd, distilled_config.final_config_dict, splits.n_users, splits.n_items)
    method = distiller_class(request.kd)
    _check_processes(alone, request.kd, method, [str(config["model"]) for config in (alone, *teacher_configs)])
    n_checkpoints = checkpoints_needed(method, options)
    assistant_config = None
    if method.assistant:
        of_teacher = saved[0].manifest.get("settings", {}) if saved else teacher_configs[0].final_config_dict
        changes = assistant_values(distilled_config.final_config_dict, width_of(of_teacher))
        assistant_config = request.distilled_config(teacher_name, changes)
        record_features(assistant_config, splits.dataset)
        check_distiller(request.kd, assistant_config.final_config_dict, splits.n_users, splits.n_items)

    folder = _new_folder(output, request, teacher_name, alone["seed"])
    stage = Stage(splits, cache, folder, bool(request.run["resume"]), request.run["teacher_ray_address"])
    with logging_to(folder / "run.log", alone["state"]):
        try:
            for name, files in request.files.items():
                getLogger().info(f"Property files of the {name}: {', '.join(files)}")
            store, dtype = request.run["teacher_store"], request.run["teacher_dtype"]
            teacher, of_teacher = saved or ensure_teachers(teacher_configs, stage, store, dtype, n_checkpoints, request.run["teacher_svd"])
            of_student = ensure_student_alone(alone, stage) if distilled_config["kd_compare"] else None
            of_assistant = None
            if assistant_config is not None:
                teacher, of_assistant = ensure_assistant(assistant_config, stage, teacher, store, dtype)
            of_distilled = distill(distilled_config, stage, teacher, after_epoch)
        except KDError:
            _leave_nothing(folder)
            raise
        result = _result(request, distilled_config, teacher_name, command, of_teacher, of_student, of_distilled)
        if of_assistant is not None:
            result["assistant"] = of_assistant
        if features or saved:
            result["item_features"] = features or (teacher.manifest.get("settings") or {}).get("item_feature_digests") or {}
        write_json(folder / "result.json", result)
        getLogger().info(f"Result in {folder / 'result.json'}")
    return {**result, "folder": str(folder)}


def checkpoints_needed(method: type[Distiller], options: Mapping[str, Any]) -> int:
    """How many checkpoints of a teacher's training the method needs."""
    return int(options.get("n_checkpoints", N_CHECKPOINTS)) if "trajectory" in method.requires else 0


def make_teachers(request: Request) -> list[Path]:
    """Train the request's teachers, or find them in the cache, and do no more; their folders. None for one that the user names by path.

    Raises:
        KDError: see :func:`run_recbole_kd`.
    """
    configs = request.teacher_model_configs()
    if not configs:
        return []
    cache, output = cache_folder(request.run["cache_dir"]), Path(request.run["output_dir"]).expanduser()
    splits = split_data(request.student_config())
    for of_teacher in configs:
        record_features(of_teacher, splits.dataset)
    config = request.distilled_config(request.teacher or "")
    method = distiller_class(request.kd)
    options = resolve_options(method, {key[3:]: value for key, value in config.final_config_dict.items() if key.startswith("kd_")})
    folder = _new_folder(output, request, f"{request.teacher}-alone", config["seed"])
    stage = Stage(splits, cache, folder, bool(request.run["resume"]), request.run["teacher_ray_address"])
    needed = checkpoints_needed(method, options)
    with logging_to(folder / "run.log", config["state"]):
        store, dtype, svd = (request.run[f"teacher_{key}"] for key in ("store", "dtype", "svd"))
        _, figures = ensure_teachers(configs, stage, store, dtype, needed, svd)
    return [Path(member["path"]) for member in figures.get("members", [figures])]


def _check_writable(key: str, folder: Path) -> None:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}={folder} cannot be written to: {there} is no writable folder, name another one")


def _check_cutoffs(config: Any, n_items: int) -> None:
    if max(config["topk"]) > n_items:
        raise ConfigError(f"topk={config['topk']} is not possible: {config['dataset']} has {n_items} items, choose cut-offs up to that")


def _check_processes(config: Any, kd: str, method: type[Distiller], models: list[str]) -> None:
    n = config["nproc"] or 1
    if n == 1:
        return
    for name in models:
        plain = get_trainer(get_model(name).type, name).__name__ == "Trainer"  # others are trained by one process, as RecBole does
        if plain and not can_be_shared(get_model(name)):
            raise ConfigError(
                f"nproc={n} is not possible with {public_name(name)}, whose loss is not known to be a mean over rows: the parts of "
                "several processes may not add up to it, take nproc=1"
            )
    if method.needs_items:
        raise ConfigError(f"nproc={n} is not possible with kd={kd}, whose loss compares all of a batch's rows: take nproc=1")
    if config["enable_scaler"] or config["enable_amp"]:
        raise ConfigError(f"nproc={n} is not possible with mixed precision: set enable_amp and enable_scaler to False, or nproc to 1")
    if config["device"].type == "cuda" and torch.cuda.device_count() < n:
        raise ConfigError(f"nproc={n} needs {n} GPUs and gpu_id={config['gpu_id']} names {torch.cuda.device_count()}: name as many")


def _new_folder(output: Path, request: Request, teacher_name: str, seed: int) -> Path:
    """A fresh folder for this run under output_dir, of the current folder by default."""
    name = f"{request.model}-{teacher_name.replace(',', '+')}-{request.kd.replace(':', '.')}-{request.dataset}-seed{seed}"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = output / f"{name}-{stamp}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _leave_nothing(folder: Path) -> None:
    """A failed run keeps its log, which says why, and nothing that could be taken for a result."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != "run.log":
            path.unlink()


def _result(
    request: Request,
    config: Any,
    teacher_name: str,
    command: str,
    of_teacher: dict[str, Any],
    of_student: dict[str, Any] | None,
    of_distilled: dict[str, Any],
) -> dict[str, Any]:
    options = {key: value for key, value in config.final_config_dict.items() if key.startswith("kd_")}
    return {
        "dataset": request.dataset,
        "setting": request.setting,
        "model": request.model,
        "teacher_model": teacher_name,
        "kd": request.kd,
        "kd_weight": config["kd_weight"],
        "seed": config["seed"],
        "eval_protocol": request.run["eval_protocol"],
        "valid_metric": config["valid_metric"],
        "valid_metric_bigger": bool(config["valid_metric_bigger"]),
        "teacher": of_teacher,
        "student": of_student,
        "distilled": of_distilled,
        "kd_options": options,
        "property_files": request.files,
        "versions": versions(),
        "command": command,
    }
