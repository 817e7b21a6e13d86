"""The teacher assistant: distilled from the teacher, then used as the student's teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from logging import getLogger
from typing import Any

from recbole_kd.config.model_catalogue import recbole_defaults
from recbole_kd.config.property_layers import student_layers
from recbole_kd.data.histories.sequence_dataset import stage_parts, universe_of
from recbole_kd.errors import ConfigError
from recbole_kd.pipeline.revisions import revisions_of
from recbole_kd.pipeline.stage_words import named, outcome
from recbole_kd.pipeline.training_entries import (
    RunContext,
    data_of,
    distilled_settings,
    entry_of,
    identity,
    settings_of,
    workshop,
)
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.storage.cache import locked
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.export import export_teacher
from recbole_kd.teacher.load import load_teacher
from recbole_kd.training.training_job import TrainingFiles, TrainingJob

KEYS = {
    "kd_assistant_epochs": "epochs",
    "kd_assistant_stopping_step": "stopping_step",
    "kd_assistant_learning_rate": "learning_rate",
    "kd_assistant_weight": "kd_weight",
}
"""Options with the assistant's own value of a key. If empty, the student's value is used."""

NEUTRAL: dict[str, Any] = {
    "kd_assistant_size": None,
    **dict.fromkeys(KEYS),
    "kd_teacher_share": 0.0,
    "init_from": None,
    "kd_compare": True,
}
"""Options without effect on the assistant's own training have a fixed value there, so that equal assistants share an
entry."""


def assistant_values(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that the assistant's Config has other than the distilled student's.

    Its width is ``kd_assistant_size``, else the geometric mean of student's and teacher's width. If both are the same
    model with the same width (HSTU of 8 blocks over HSTU of 1), its depth is the geometric mean instead.

    Args:
        student: values of the distilled student's configuration.
        teacher: values of the teacher's configuration, as far as they are known.

    Raises:
        ConfigError: no width can be derived, or the student's model has no width.
    """
    name, own, size = student["model"], student.get("embedding_size"), student.get("kd_assistant_size")
    # RecBole's Config accepts any key, so check whether the model's property files name it.
    keys = {**recbole_defaults(name, student["dataset"]), **student_layers(name, student["dataset"])[0]}
    if not isinstance(own, int) or "embedding_size" not in keys:
        raise ConfigError(
            f"--kd={student['kd']} makes its assistant by another embedding_size and {name} has no such key: take MF "
            "or LightGCN"
        )
    teacher_width = width_of(teacher)
    if size is None and teacher_width is None:
        raise ConfigError(
            f"--kd={student['kd']} needs kd_assistant_size: the teacher has no embedding_size, so no width between "
            "teacher and student can be derived"
        )
    width = size if size is not None else round(math.sqrt(own * (teacher_width or own)))
    given = {key: student[option] for option, key in KEYS.items() if student.get(option) is not None}
    return {"embedding_size": width, **(_depth_between(student, teacher) if width == own else {}), **given, **NEUTRAL}


def _depth_between(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, int]:
    depths = [values.get("n_layers") for values in (student, teacher)]
    if teacher.get("model") != student["model"] or not all(isinstance(depth, int) for depth in depths):
        return {}
    return {"n_layers": round(math.sqrt(math.prod(depths)))}  # type: ignore[arg-type]


def width_of(settings: Mapping[str, Any]) -> int | None:
    """Return the width of a teacher with these settings, or None."""
    width = settings.get("embedding_size")
    return width if isinstance(width, int) else None


def ensure_assistant(
    config: Any, context: RunContext, teacher: TeacherScores, store: str = "auto", dtype: str = "fp32"
) -> tuple[TeacherScores, dict[str, Any]]:
    """Return the assistant's scores and metrics, from the cache or newly distilled.

    A new assistant is distilled from the teacher, exported and put into the cache.

    Args:
        config: the assistant's Config.
        context: the run.
        teacher: the teacher to distil from.
        store, dtype: of the export.
    """
    name = config["model"]
    entry = entry_of(
        context, "assistant", name, {**distilled_settings(config, teacher), "store": store, "dtype": dtype}
    )
    context.progress.begin(f"Assistant {named(config)}")
    with locked(entry):
        cached = entry.is_dir()
        if not cached:
            getLogger().info(f"Distilling the assistant {name} of {teacher.name} once, into the cache entry {entry}")
            with workshop(entry) as work:
                files = TrainingFiles.in_folder(work, context.folder / "tensorboard-assistant")
                model, figures = TrainingJob(
                    config, context.splits, files, context.resume, teacher, progress=context.progress
                ).train()
                revisions = revisions_of(type(model))
                manifest = {
                    "model": name, "dataset": config["dataset"], "settings": settings_of(config),
                    "teacher": identity(teacher), "data": data_of(context, name), "report": figures,
                    **({"revisions": revisions} if revisions else {}),
                }  # fmt: skip
                rows = universe_of(stage_parts(config, context.splits.parts[:1])[0])
                export_teacher(Scorer(model, rows), entry, manifest, store, dtype, ray_address=context.ray_address)
        assistant = load_teacher(entry, context.splits.parts[0], config["device"])
    assistant.check_data(context.splits.fingerprint)
    assistant.taught_by = teacher
    context.progress.end(outcome(assistant.manifest["report"], config["valid_metric"], str(entry), cached))
    return assistant, {**assistant.manifest["report"], "cached": cached, "path": str(entry)}
