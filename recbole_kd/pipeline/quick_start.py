"""One distillation from beginning to end, as a recipe from top to bottom."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_kd.config.argument_kinds import KEYS, NAMES, PATHS, TEXT, takes
from recbole_kd.config.merging import merge_sources
from recbole_kd.data.item_features.configured import encoders_in
from recbole_kd.data.split_words import describe_split
from recbole_kd.errors import KDError
from recbole_kd.evaluation.teacher_ranking import teacher_metrics, valid_as_student
from recbole_kd.integration.compat import quiet_warnings
from recbole_kd.ops.threads import n_threads
from recbole_kd.pipeline.assistant import ensure_assistant
from recbole_kd.pipeline.data_preview import data_counts
from recbole_kd.pipeline.huge_pages import prefer_huge_pages
from recbole_kd.pipeline.idle_keys import idle_keys
from recbole_kd.pipeline.plan import Plan, make_plan
from recbole_kd.pipeline.request import Request, make_request
from recbole_kd.pipeline.result_table import versions
from recbole_kd.pipeline.run_log import logging_to
from recbole_kd.pipeline.screen import Screen
from recbole_kd.pipeline.setting_sources import Source, recorded_sources
from recbole_kd.pipeline.stage_words import headline, outcome
from recbole_kd.pipeline.stages import distill, ensure_student_alone, ensure_teachers
from recbole_kd.pipeline.student_export import export_student
from recbole_kd.pipeline.training_entries import RunContext
from recbole_kd.pipeline.verdict import short, verdict, weak_teacher, worthwhile_teacher
from recbole_kd.pipeline.weight_checks import what_hinders
from recbole_kd.pipeline.weight_search import Prospect
from recbole_kd.report.write import try_report
from recbole_kd.serving.student_files import FOLDER
from recbole_kd.storage.disk_full import full_disk_is_said
from recbole_kd.storage.files import write_json
from recbole_kd.storage.screen_log import show
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.coverage import coverage_of

ABOUT_STUDENT = ("dataset", "setting", "model", "seed", "eval_protocol", "valid_metric", "valid_metric_bigger")
"""What a result says of a student that is trained alone."""


@takes(
    model=TEXT.or_none(), teacher=TEXT.or_else(NAMES).or_none(), kd=TEXT.or_none(), dataset=TEXT.or_none(),
    config_file_list=TEXT.or_else(PATHS).or_none(), config_dict=KEYS.or_none(), command=TEXT,
)  # fmt: skip
def run_recbole_kd(
    model: str | None = None,
    teacher: str | None = None,
    kd: str | None = None,
    dataset: str | None = None,
    config_file_list: list[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    command: str = "",
    **keys: Any,
) -> dict[str, Any]:
    """Train a teacher and a student without it, distil the student, and report all three.

    The teacher is trained, loaded or taken from the cache. The student without a teacher is trained or taken from the
    cache.

    Args:
        model: the student's RecBole name.
        teacher: the teacher's RecBole name.
        kd: the method.
        dataset: the data set.
        config_file_list: property files with any RecBole key, ``kd_*`` keys and ``teacher_config``.
        config_dict: the same keys; they override the files, as in RecBole.
        command: the command line to record in the result.
        keys: the same keys by name, such as ``epochs=10`` or ``kd_weight=5``. They override the dict.

    Returns:
        The content of result.json (see docs/architecture.md) and the run's ``folder``.

    Raises:
        KDError: bad input, or a training that cannot go on. The message is one sentence.

    Examples:
        >>> result = recbole_kd.run_recbole_kd("MF", "LightGCN", "RCEKD", "tiny", config_dict=keys, epochs=1)
        >>> result["teacher_model"], result["distilled"]["epochs"]
        ('LightGCN', 1)
        >>> 0 <= result["distilled"]["test"]["ndcg@10"] <= 1
        True
        >>> (Path(result["folder"]) / "result.json").is_file()
        True
    """
    named = {"model": model, "teacher": teacher, "kd": kd, "dataset": dataset}
    values = merge_sources(config_file_list, config_dict, {**keys, **{k: v for k, v in named.items() if v is not None}})
    return run_request(make_request(values), command)


def run_request(
    request: Request,
    command: str = "",
    after_epoch: Callable[[int, float], None] | None = None,
    given: Sequence[Source] = (),
    *,
    writes_report: bool = True,
) -> dict[str, Any]:
    """Run a checked request; see :func:`run_recbole_kd`.

    Args:
        request: the request.
        command: the command line to record.
        after_epoch: callback with each epoch of the distilled student and its validation score.
        given: the user's values by source, the strongest first, see :func:`sources_of`. Without it all are of the
            caller.
        writes_report: write report.html, about 5 MB, into the run's folder. A comparison or search writes one of its
            own instead.
    """
    prefer_huge_pages()
    with quiet_warnings():
        plan = make_plan(request)
    with _room_in(plan.output), quiet_warnings():
        context = _context(plan, plan.teacher_name)
        with logging_to(context.folder / "run.log", plan.alone["state"]) as handler:
            screen = Screen(handler, _n_stages(plan), epochs=plan.alone["show_progress"] is not False)
            context = replace(context, progress=screen)
            show(headline(plan.distilled, plan.splits, n_threads()))
            for name, files in plan.property_files.items():
                getLogger().info(f"Property files of the {name}: {', '.join(files)}")
            getLogger().info(describe_split(plan.splits.dataset))
            if plan.weight_note:
                getLogger().info(plan.weight_note)
            for sentence in filter(None, (plan.cut, *idle_keys(plan))):
                getLogger().warning(sentence)
            try:
                with _room_in(context.folder), screen.alive():
                    figures, model = _train(plan, context, after_epoch)
                    result = {
                        **_result(plan),
                        **figures,
                        "versions": versions(plan.distilled["device"]),
                        "command": command,
                    }
                    result["verdict"] = verdict(result, can_search=_can_search(plan))
                    result["student_export"] = export_student(plan.distilled, context, model, result)
                    result["setting_sources"] = recorded_sources(plan, given)
                    write_json(context.folder / "result.json", result)
            except KDError:
                _leave_nothing(context.folder)
                raise
            getLogger().info(f"Result in {context.folder / 'result.json'}")
            failure = try_report(context.folder) if writes_report else None
            if failure is not None:
                getLogger().warning(failure)
    return {**result, "folder": str(context.folder)}


def _room_in(place: Path) -> AbstractContextManager[None]:
    return full_disk_is_said(
        place, "free some, or name other places with --output_dir and --cache_dir, and run again with --resume=True"
    )


def make_teachers(request: Request) -> list[Path]:
    """Train the request's teachers or find them in the cache, and return their folders.

    The list is empty if the user names a saved teacher.

    Raises:
        KDError: see :func:`run_recbole_kd`.
    """
    prefer_huge_pages()
    with quiet_warnings():
        plan = make_plan(request)
    if plan.saved:
        return []
    with _room_in(plan.output), quiet_warnings():
        context = _context(plan, f"{request.teacher}-alone")
        with logging_to(context.folder / "run.log", plan.alone["state"]) as handler:
            screen = Screen(handler, len(plan.teachers), epochs=plan.alone["show_progress"] is not False)
            with screen.alive():
                _, figures = _teachers(plan, replace(context, progress=screen))
    return [Path(member["path"]) for member in figures.get("members", [figures])]


def train_student_alone(request: Request) -> dict[str, Any]:
    """Train the request's student alone, or take it from the cache, and return its figures.

    Raises:
        KDError: see :func:`run_recbole_kd`.
    """
    prefer_huge_pages()
    with quiet_warnings():
        plan = make_plan(request)
    with _room_in(plan.output), quiet_warnings():
        context = _context(plan, "student-alone")
        with logging_to(context.folder / "run.log", plan.alone["state"]):
            figures = ensure_student_alone(plan.alone, context)
    about = _result(plan)
    of_student = {key: about[key] for key in ABOUT_STUDENT}
    return {**of_student, "student": figures, "versions": versions(plan.alone["device"])}


def _context(plan: Plan, name: str) -> RunContext:
    run = plan.request.run
    folder = _new_folder(plan.output, plan.request, name, plan.alone["seed"])
    return RunContext(
        plan.splits, plan.cache, folder, bool(run["resume"]), run["teacher_ray_address"], start=plan.start
    )


def _n_stages(plan: Plan) -> int:
    """Return the number of stages of the run.

    These are the teachers, the student without a teacher, an assistant and the distilled student.
    """
    return max(len(plan.teachers), 1) + bool(plan.distilled["kd_compare"]) + (plan.assistant is not None) + 1


def _teachers(plan: Plan, context: RunContext) -> tuple[TeacherScores, dict[str, Any]]:
    store, dtype, svd = (plan.request.run[f"teacher_{key}"] for key in ("store", "dtype", "svd"))
    if plan.saved:
        context.progress.begin(f"Teacher {plan.teacher_name}, saved")
        teacher, figures = plan.saved[0], _figures_of(plan, *plan.saved)
        context.progress.end(outcome(figures, plan.alone["valid_metric"], str(figures["path"]), cached=True))
        return teacher, figures
    return ensure_teachers(plan.teachers, context, store, dtype, plan.n_checkpoints, svd)


def _figures_of(plan: Plan, teacher: TeacherScores, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a saved teacher, measured if they are not known, and what it covers."""
    measured = {} if figures["test"] is not None else teacher_metrics(plan.alone, plan.splits, teacher)
    coverage = coverage_of(teacher)
    if coverage is not None:
        rows = "histories" if "histories" in coverage else "users"
        getLogger().info(
            f"The teacher covers {coverage[rows]:,} of {coverage[f'of_{rows}']:,} {rows} and {coverage['items']:,} of "
            f"{coverage['of_items']:,} items; the other {rows} train on the base loss alone"
        )
    return {**figures, **measured, **({"coverage": coverage} if coverage else {})}


def _as_student(plan: Plan, teacher: TeacherScores) -> dict[str, Any]:
    """Return ``valid_as_student`` of a teacher of another family than the student's, and show it."""
    found = valid_as_student(plan.alone, plan.splits, teacher)
    if found is None:
        return {}
    metric, model = plan.alone["valid_metric"], plan.request.model
    show(f"      ranked as {model} is, the teacher has {metric} valid {short(found[metric.lower()])}")
    return {"valid_as_student": found}


def _train(
    plan: Plan, context: RunContext, after_epoch: Callable[[int, float], None] | None
) -> tuple[dict[str, Any], Any]:
    """Run the stages in order; return the metrics by stage and the distilled student."""
    teacher, of_teacher = _teachers(plan, context)
    figures: dict[str, Any] = {"teacher": of_teacher}
    if plan.features or plan.saved:
        figures["item_features"] = (
            plan.features or (teacher.manifest.get("settings") or {}).get("item_feature_digests") or {}
        )
    figures["text_encoder"] = encoders_in(figures.get("item_features") or {})
    figures["student"] = ensure_student_alone(plan.alone, context) if plan.distilled["kd_compare"] else None
    figures["teacher"] = of_teacher | _as_student(plan, teacher)
    about = {**_result(plan), **figures}
    weak = weak_teacher(about)
    if weak is not None:
        getLogger().warning(f"{weak['text']}. Distilling anyway.")
    if plan.assistant is not None:
        store, dtype = plan.request.run["teacher_store"], plan.request.run["teacher_dtype"]
        teacher, figures["assistant"] = ensure_assistant(plan.assistant, context, teacher, store, dtype)
    prospect = Prospect(worthwhile_teacher(about), plan.general_weight)
    model, figures["distilled"] = distill(plan.distilled, context, teacher, after_epoch, prospect=prospect)
    if "kd_weight_search" in figures["distilled"]:
        figures["kd_weight_search"] = figures["distilled"].pop("kd_weight_search")
    _time_once(plan, figures)
    return figures, model


def _can_search(plan: Plan) -> bool:
    """Return whether the run is possible with ``kd_weight=auto``."""
    return "+" not in plan.request.kd and plan.assistant is None and what_hinders(plan.distilled) is None


def _time_once(plan: Plan, figures: dict[str, Any]) -> None:
    """Give models of the same size the distilled student's time, in place.

    Two timings of one model would differ by the machine's load.
    """
    own, key = figures["distilled"], "inference_us_per_user"
    for part in ("student", "assistant", *(["teacher"] if plan.teacher_name == plan.request.model else [])):
        found = figures.get(part)
        if found is not None and found["parameters"] == own["parameters"]:
            figures[part] = {**found, key: own[key]}


def _new_folder(output: Path, request: Request, teacher_name: str, seed: int) -> Path:
    """Make and return this run's own folder in output_dir, by default in the current folder."""
    name = (
        f"{request.model}-{teacher_name.replace(',', '+')}-{request.kd.replace(':', '.')}-{request.dataset}-seed{seed}"
    )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = output / f"{name}-{stamp}-{os.getpid()}"
    number = 1
    while True:  # two runs of one process may start in the same second
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = output / f"{name}-{stamp}-{os.getpid()}-{number}"
        else:
            return folder


def _leave_nothing(folder: Path) -> None:
    """Remove files of a failed run that could be taken for a result.

    The log stays, because it contains the error, and so do all other files.
    """
    for made in (*folder.glob("tensorboard*"), folder / FOLDER):
        shutil.rmtree(made, ignore_errors=True)
    for path in (*folder.glob("*.pth"), folder / "result.json"):
        path.unlink(missing_ok=True)


def _result(plan: Plan) -> dict[str, Any]:
    """Return the part of result.json that describes the request."""
    request, config = plan.request, plan.distilled
    return {
        "dataset": request.dataset,
        "data": data_counts(plan.splits),
        "setting": request.setting,
        "model": request.model,
        "teacher_model": plan.teacher_name,
        "kd": request.kd,
        "kd_weight": config["kd_weight"],
        "seed": config["seed"],
        "eval_protocol": request.run["eval_protocol"],
        "valid_metric": config["valid_metric"],
        "valid_metric_bigger": bool(config["valid_metric_bigger"]),
        "kd_options": {key: value for key, value in config.final_config_dict.items() if key.startswith("kd_")},
        "property_files": plan.property_files,
        **({"init_from": plan.start.matches} if plan.start else {}),
    }
