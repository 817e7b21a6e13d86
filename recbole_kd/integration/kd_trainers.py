"""Registration of distilling trainers with RecBole; the only file that does so.

``get_trainer`` is ``getattr(recbole.trainer, <model> + "Trainer")`` and does not see a Config. So the class that it
finds for a general or sequential model decides at construction: if the configuration has ``kd`` it builds a trainer
that distils, otherwise RecBole's own. A Config that names a method gets our property values below all user settings,
and is checked at once.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import getLogger
from typing import Any

from recbole.config import Config
from recbole.trainer import Trainer
from recbole.utils import ModelType, get_model

from recbole_kd.errors import ConfigError
from recbole_kd.integration import data_errors, quick_start
from recbole_kd.integration.recbole_config import KDConfig

_SUFFIX = "Trainer"
_OURS = frozenset(
    {
        "teacher", "teacher_path", "teacher_config", "eval_protocol", "time_order", "max_minutes", "loss_reduction",
        "train_by_user",
    }
)  # fmt: skip
"""Keys that RecBole's own trainer ignores."""


@dataclass(frozen=True)
class Distillation:
    """Hooks into the packages above, passed to :func:`install`.

    Attributes:
        property_values: maps a RecBole Config under construction (and its model's name and class, and the data set's
            name) to values below all user settings; raises ConfigError on a wrong key or value.
        trainer: builds a trainer that distils from a Config and a model.
    """

    property_values: Callable[[Any, str, type, str], Mapping[str, Any]]
    trainer: Callable[..., Trainer]


_installed: list[Distillation] = []


def install(distillation: Distillation) -> None:
    """Let RecBole's own functions distil if a Config has ``kd``; it may be called twice."""
    if _installed:
        return
    _installed.append(distillation)
    vars(sys.modules["recbole.trainer"])["__getattr__"] = _find_trainer
    _wrap_config()
    _wrap_fit()
    quick_start.install()
    data_errors.install()


# -- trainers
# -------------------------------------------------------------------------------------------------------------


def _find_trainer(name: str) -> type[Trainer]:
    """Return the trainer class of a model that has none of its own in RecBole.

    ``recbole.trainer`` calls this for names that it does not have.
    """
    model = name.removesuffix(_SUFFIX)
    if not name.endswith(_SUFFIX) or not model.isidentifier() or not _can_distil(model):
        raise AttributeError(f"module 'recbole.trainer' has no attribute {name!r}")
    return _chooser(name)


def _can_distil(model: str) -> bool:
    try:
        found = get_model(model)
    except (ValueError, AttributeError, ImportError):
        return False
    return getattr(found, "type", None) in (ModelType.GENERAL, ModelType.SEQUENTIAL)


class _Choice(Trainer):
    """RecBole's Trainer, or one that distils if the configuration has ``kd``.

    The choice is made at construction.
    """

    def __new__(cls, config: Any, model: Any, *more: Any, **named: Any) -> Any:
        if "_chooses" not in vars(cls):
            raise ConfigError(
                f"{cls.__name__} derives from {cls.__mro__[1].__name__}, which only chooses a trainer: derive it from "
                "recbole_kd.KDTrainer"
            )
        if config["kd"]:
            return _installed[0].trainer(config, model, *more, **named)
        _warn_of_keys_without_effect(config)
        return Trainer(config, model, *more, **named)


@functools.cache
def _chooser(name: str) -> type[Trainer]:
    """Return the class for one model, under the name that get_trainer returned before."""
    return type("Trainer", (_Choice,), {"__module__": "recbole.trainer", "__qualname__": name, "_chooses": True})


def _warn_of_keys_without_effect(config: Any) -> None:
    given = getattr(config, "external_config_dict", {})
    keys = [key for key in given if key.startswith(("kd_", "teacher.")) or key in _OURS or key.lower() == "kd"]
    if keys:
        getLogger().warning(
            f"{keys[0]}={given[keys[0]]} has no effect without kd: name a method, such as kd=RCEKD, or leave it out"
        )


def _wrap_fit() -> None:
    """Make RecBole's Trainer refuse a Config with a method, which this trainer would ignore."""
    original = Trainer.fit

    @functools.wraps(original)
    def fit(self: Any, *args: Any, **options: Any) -> Any:
        if self.config["kd"] and not hasattr(self, "distiller"):
            raise ConfigError(
                f"kd={self.config['kd']} has no effect on {type(self).__name__}, which cannot distil: use the trainer "
                "that get_trainer(config['MODEL_TYPE'], config['model']) returns, derive yours from "
                "recbole_kd.KDTrainer, or call recbole_kd.distil(trainer, distiller) before fit"
            )
        return original(self, *args, **options)

    fit._of_recbole_kd = True  # type: ignore[attr-defined]
    Trainer.fit = fit


# -- configurations
# ---------------------------------------------------------------------------------------------------------


def _wrap_config() -> None:
    original = Config._load_internal_config_dict

    @functools.wraps(original)
    def load(self: Any, model: str, model_class: type, dataset: str) -> None:
        original(self, model, model_class, dataset)
        kd = self.external_config_dict.get("kd")
        if not isinstance(self, KDConfig) and kd is not None and not (isinstance(kd, str) and not kd):
            self.internal_config_dict.update(_installed[0].property_values(self, model, model_class, dataset))

    load._of_recbole_kd = True  # type: ignore[attr-defined]
    Config._load_internal_config_dict = load
    _wrap_conversion()


def _wrap_conversion() -> None:
    """Refuse a text for kd that RecBole evaluates to nothing, such as "None".

    It would train without a teacher.
    """
    original = Config._convert_config_dict

    @functools.wraps(original)
    def convert(self: Any, config_dict: dict[str, Any]) -> dict[str, Any]:
        kd = config_dict.get("kd")
        converted: dict[str, Any] = original(self, config_dict)
        if isinstance(kd, str) and kd and converted["kd"] in (None, ""):
            raise ConfigError(
                f"kd={kd!r} is not the name of a method: to train without distillation leave kd out of the "
                "configuration, else name one, such as kd=RCEKD"
            )
        return converted

    convert._of_recbole_kd = True  # type: ignore[attr-defined]
    Config._convert_config_dict = convert
