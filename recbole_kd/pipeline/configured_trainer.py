"""The trainer that RecBole's own functions get: a KDTrainer whose teacher and distiller its configuration names."""

from __future__ import annotations

from logging import getLogger
from typing import Any

from torch import nn

from recbole_kd.acceleration.accelerate import accelerate_on_cpu
from recbole_kd.data.protocol_loaders import as_protocol
from recbole_kd.distiller.base import Distiller
from recbole_kd.model.loss_reduction import initialise, reduction_note
from recbole_kd.pipeline.from_recbole import RecBoleRequest, names_teacher, no_teacher, request_of, teacher_for
from recbole_kd.scoring.vector_models import softmax_of
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.trainer import KDTrainer


class ConfiguredKDTrainer(KDTrainer):
    """Trains a student on its own loss plus the weighted loss of a distiller.

    Where no distiller is given and the configuration names ``kd``, teacher and distiller are those of the
    configuration: ``teacher`` (trained on demand, once, and kept in the cache) or ``teacher_path``, ``kd_*`` and the
        property files. They
    are made at the beginning of :meth:`fit`, which has the data. Without ``kd`` the model is trained alone.

    Args:
        config: RecBole's Config of the student. model: the student. distiller: made by hand, or None.
        options: see :class:`recbole_kd.training.trainer.KDTrainer`.
    """

    def __init__(self, config: Any, model: nn.Module, distiller: Distiller | None = None, **options: Any) -> None:
        configured = distiller is None and bool(config["kd"])
        self._request: RecBoleRequest | None = request_of(config) if configured and names_teacher(config) else None
        if configured:
            accelerate_on_cpu(model, softmax_of(model))
            initialise(model, config["init_std"])
            getLogger().info(reduction_note(model, config))
            options = {"track": config["kd_track"] or (), **options}
        super().__init__(config, model, distiller, **options)
        self._train_data: Any = None

    def fit(self, train_data: Any, valid_data: Any = None, *args: Any, **options: Any) -> tuple[float, Any]:
        """Train as RecBole's ``fit`` does; see there.

        Raises:
            KDError: the teacher does not fit the data, or cannot be trained; a loss is no finite number.
        """
        self._train_data = train_data
        if self.distiller is None and self.config["kd"]:
            if self._request is None:
                raise no_teacher(self.config)
            teacher = teacher_for(self._request, train_data)
            self.join(build_distiller(self.config, self.model, teacher, train_data))
        if valid_data:
            valid_data = self._as_protocol(valid_data)
        result: tuple[float, Any] = super().fit(train_data, valid_data, *args, **options)
        return result

    def evaluate(self, eval_data: Any, *args: Any, **options: Any) -> dict[str, float] | None:
        """Evaluate as RecBole's ``evaluate`` does, under ``eval_protocol``; see there."""
        return super().evaluate(self._as_protocol(eval_data), *args, **options)

    def _as_protocol(self, eval_data: Any) -> Any:
        """A loader of RecBole's under the protocol of the paper, where the configuration asks for it."""
        if self.config["eval_protocol"] != "paper" or self._train_data is None:
            return eval_data
        return as_protocol(eval_data, self._train_data)
