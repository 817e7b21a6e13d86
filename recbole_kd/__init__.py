"""Knowledge distillation for RecBole.

``import recbole_kd`` once, and RecBole's own functions know the models of this package. In an existing RecBole project
three lines turn a training into a distillation::

    teacher = recbole_kd.load_teacher(path, train_data)
    distiller = recbole_kd.build_distiller(config, student, teacher)
    recbole_kd.KDTrainer(config, student, distiller).fit(train_data, valid_data)
"""

from __future__ import annotations

import types

from recbole_kd.cli.interrupts import end_at_interrupts_of_imports

end_at_interrupts_of_imports()

from recbole_kd.integration import compat, old_paths  # noqa: E402  (what follows takes seconds to import)

compat.apply()

from recbole_kd.integration import register as _register  # noqa: E402  (RecBole must not be imported before the bridge)

_register.register()
old_paths.install_old_paths()

from recbole_kd.data.split_and_loaders import prepare_data  # noqa: E402
from recbole_kd.distiller.registry import DISTILLERS  # noqa: E402
from recbole_kd.errors import (  # noqa: E402
    ArgumentError,
    ConfigError,
    DataError,
    KDError,
    StudentError,
    TeacherError,
    TrainingError,
    UnknownIdError,
)
from recbole_kd.integration import kd_trainers as _kd_trainers  # noqa: E402
from recbole_kd.pipeline.configured_trainer import ConfiguredKDTrainer as KDTrainer  # noqa: E402
from recbole_kd.pipeline.from_recbole import property_values as _property_values  # noqa: E402
from recbole_kd.pipeline.quick_start import run_recbole_kd  # noqa: E402
from recbole_kd.scoring.register_model import register_model  # noqa: E402
from recbole_kd.scoring.scorer import Scorer  # noqa: E402
from recbole_kd.serving.student import Student, load_student  # noqa: E402
from recbole_kd.teacher.external import (  # noqa: E402
    teacher_from_lists,
    teacher_from_scores,
    teacher_from_vectors,
)
from recbole_kd.teacher.load import load_teacher  # noqa: E402
from recbole_kd.training.build_distiller import build_distiller  # noqa: E402
from recbole_kd.training.distil import distil  # noqa: E402
from recbole_kd.training.teacher_interactions import teacher_loader  # noqa: E402
from recbole_kd.tuning.objective import objective_function  # noqa: E402
from recbole_kd.version import __version__  # noqa: E402

_kd_trainers.install(_kd_trainers.Distillation(_property_values, KDTrainer))

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


def __getattr__(name: str) -> types.ModuleType:
    """Return a module by the path it had in earlier versions, such as ``recbole_kd.vectors``."""
    return old_paths.module_of(__name__, name)
