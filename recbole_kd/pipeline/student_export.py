"""Export of a run's student for use elsewhere, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from typing import Any

from recbole_kd.errors import KDError, StorageError
from recbole_kd.pipeline.result_table import result_table
from recbole_kd.pipeline.training_entries import RunContext, settings_of
from recbole_kd.serving.pack_student import pack_student
from recbole_kd.serving.student_files import FOLDER


def export_student(config: Any, context: RunContext, model: Any, result: Mapping[str, Any]) -> dict[str, str | None]:
    """Write the distilled student into the run's folder.

    Args:
        config: Config of the student.
        context: the run.
        model: the student.
        result: the content of result.json so far.

    Returns:
        ``folder``, its name in the run's folder, or None with the ``reason`` in a sentence.

    Raises:
        StorageError: the disk is full.
    """
    names = ("dataset", "kd", "seed", "eval_protocol", "versions")
    metrics = {part: result["distilled"][part] for part in ("valid", "test")}
    about = {name: result[name] for name in names} | {"teacher": result["teacher_model"], "metrics": metrics}
    try:
        pack_student(
            context.folder / FOLDER,
            model,
            config,
            settings_of(config),
            context.splits.parts,
            about,
            result_table(result),
        )
    except StorageError:
        raise
    except KDError as error:
        getLogger().warning(f"The run does not export a student for use elsewhere: {error}")
        return {"folder": None, "reason": str(error)}
    return {"folder": FOLDER, "reason": None}
