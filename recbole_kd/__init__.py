"""Knowledge distillation for RecBole.

``import recbole_kd`` once, and RecBole's own functions know the models of this package. In an existing RecBole project
three lines turn a training into a distillation::

    teacher = recbole_kd.load_teacher(path, train_data)
    distiller = recbole_kd.build_distiller(config, student, teacher)
    recbole_kd.KDTrainer(config, student, distiller).fit(train_data, valid_data)

The import itself is quick: RecBole is changed when it is imported, and a public name imports its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from recbole_kd.cli.interrupts import end_at_interrupts_of_imports

end_at_interrupts_of_imports()

from recbole_kd.errors import (  # noqa: E402  (a signal in between must end the program)
    ArgumentError,
    ConfigError,
    DataError,
    KDError,
    StudentError,
    TeacherError,
    TrainingError,
    UnknownIdError,
)
from recbole_kd.startup.after_import import after_import as _after_import  # noqa: E402
from recbole_kd.startup.module_aliases import install_aliases as _install_aliases  # noqa: E402
from recbole_kd.startup.old_paths import OLD_PATHS as _OLD_PATHS  # noqa: E402
from recbole_kd.startup.recbole_missing import check_recbole as _check_recbole  # noqa: E402
from recbole_kd.version import __version__  # noqa: E402

if TYPE_CHECKING:
    from recbole_kd.data.split_and_loaders import prepare_data
    from recbole_kd.distiller.registry import DISTILLERS
    from recbole_kd.pipeline.configured_trainer import ConfiguredKDTrainer as KDTrainer
    from recbole_kd.pipeline.quick_start import run_recbole_kd
    from recbole_kd.scoring.register_model import register_model
    from recbole_kd.scoring.scorer import Scorer
    from recbole_kd.serving.student import Student, load_student
    from recbole_kd.teacher.external import teacher_from_lists, teacher_from_scores, teacher_from_vectors
    from recbole_kd.teacher.load import load_teacher
    from recbole_kd.training.build_distiller import build_distiller
    from recbole_kd.training.distil import distil
    from recbole_kd.training.teacher_interactions import teacher_loader
    from recbole_kd.tuning.objective import objective_function

_PUBLIC = {
    "DISTILLERS": "distiller.registry:DISTILLERS",
    "KDTrainer": "pipeline.configured_trainer:ConfiguredKDTrainer",
    "Scorer": "scoring.scorer:Scorer",
    "Student": "serving.student:Student",
    "build_distiller": "training.build_distiller:build_distiller",
    "distil": "training.distil:distil",
    "load_student": "serving.student:load_student",
    "load_teacher": "teacher.load:load_teacher",
    "objective_function": "tuning.objective:objective_function",
    "prepare_data": "data.split_and_loaders:prepare_data",
    "register_model": "scoring.register_model:register_model",
    "run_recbole_kd": "pipeline.quick_start:run_recbole_kd",
    "teacher_from_lists": "teacher.external:teacher_from_lists",
    "teacher_from_scores": "teacher.external:teacher_from_scores",
    "teacher_from_vectors": "teacher.external:teacher_from_vectors",
    "teacher_loader": "training.teacher_interactions:teacher_loader",
}
"""Public name -> its module and its name there."""

__all__ = [
    "DISTILLERS",
    "ArgumentError",
    "ConfigError",
    "DataError",
    "KDError",
    "KDTrainer",
    "Scorer",
    "Student",
    "StudentError",
    "TeacherError",
    "TrainingError",
    "UnknownIdError",
    "__version__",
    "build_distiller",
    "distil",
    "load_student",
    "load_teacher",
    "objective_function",
    "prepare_data",
    "register_model",
    "run_recbole_kd",
    "teacher_from_lists",
    "teacher_from_scores",
    "teacher_from_vectors",
    "teacher_loader",
]


def _join_recbole() -> None:
    """Mend RecBole for today's libraries, and let its own functions know our models and methods."""
    import_module("recbole_kd.integration.compat").apply()  # before any module of RecBole's is imported
    import_module("recbole_kd.integration.join").join()


_install_aliases(_OLD_PATHS)
_after_import("recbole", _join_recbole)


def __getattr__(name: str) -> Any:
    """Return a public name, a package, or a module by its earlier path (``recbole_kd.vectors``).

    Raises:
        AttributeError: there is no such name.
        ImportError: RecBole is needed and is not installed.
    """
    if name in _PUBLIC:
        _check_recbole()
        module, _, attribute = _PUBLIC[name].partition(":")
        found = globals()[name] = getattr(import_module(f"{__name__}.{module}"), attribute)
        return found
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
