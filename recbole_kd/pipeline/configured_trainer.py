"""The trainer for RecBole's own functions, which builds teacher and distiller itself."""

from __future__ import annotations

from logging import getLogger
from typing import Any

from torch import nn

from recbole_kd.acceleration.accelerate import accelerate_on_cpu
from recbole_kd.config.argument_kinds import LOADER, MODEL, RECBOLE_CONFIG, takes
from recbole_kd.data.protocol_loaders import as_protocol
from recbole_kd.distiller.base import DISTILLER, Distiller
from recbole_kd.model.loss_reduction import initialise, reduction_note
from recbole_kd.pipeline.from_recbole import RecBoleRequest, names_teacher, no_teacher, request_of, teacher_for
from recbole_kd.scoring.vector_models import softmax_of
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.trainer import KDTrainer
from recbole_kd.training.trainer_checks import check_batches


class ConfiguredKDTrainer(KDTrainer):
    """The trainer of a student on its own loss plus the weighted loss of a distiller.

    If no distiller is given and the configuration names ``kd``, teacher and distiller come from the configuration:
    ``teacher`` (trained once on demand and cached) or ``teacher_path``, ``kd_*`` keys and the property files. They are
    built at the beginning of :meth:`fit`, which has the data. Without ``kd`` the model is trained without a teacher.

    Args:
        config: RecBole's Config of the student.
        model: the student.
        distiller: a distiller of :func:`recbole_kd.build_distiller`, or None.
        options: see :class:`recbole_kd.training.trainer.KDTrainer`.

    Examples:
        >>> data = recbole_kd.prepare_data(config)  # RecBole's Config of the student
        >>> student = get_model("MF")(config, data.train.dataset)
        >>> teacher = recbole_kd.load_teacher(teacher_path, data.train)
        >>> distiller = recbole_kd.build_distiller(config, student, teacher)
        >>> trainer = recbole_kd.KDTrainer(config, student, distiller)
        >>> score, metrics = trainer.fit(data.train, data.valid)
        >>> len(trainer.kd_loss)  # one value per epoch
        1
    """

    @takes("KDTrainer", config=RECBOLE_CONFIG, model=MODEL, distiller=DISTILLER.or_none())
    def __init__(self, config: Any, model: nn.Module, distiller: Distiller | None = None, **options: Any) -> None:
        configured = distiller is None and bool(config["kd"])
        self._request: RecBoleRequest | None = request_of(config) if configured and names_teacher(config) else None
        if configured:
            accelerate_on_cpu(model, softmax_of(model))
            initialise(model, config["init_std"])
            getLogger().info(reduction_note(model, config))
        if config["kd"]:
            options = {"track": config["kd_track"] or (), **options}
        super().__init__(config, model, distiller, **options)
        self._train_data: Any = None

    @takes("KDTrainer.fit", train_data=LOADER, valid_data=LOADER.or_none())
    def fit(self, train_data: Any, valid_data: Any = None, *args: Any, **options: Any) -> tuple[float, Any]:
        """Train like RecBole's ``fit``.

        Raises:
            KDError: the teacher does not fit the data or cannot be trained, or a loss is not finite.
        """
        check_batches(self.config, train_data)  # before a teacher is trained
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

    @takes("KDTrainer.evaluate", eval_data=LOADER)
    def evaluate(self, eval_data: Any, *args: Any, **options: Any) -> dict[str, float] | None:
        """Evaluate like RecBole's ``evaluate``, under ``eval_protocol``."""
        return super().evaluate(self._as_protocol(eval_data), *args, **options)

    def _as_protocol(self, eval_data: Any) -> Any:
        """Return a loader of RecBole under the paper's protocol, if the configuration asks for it."""
        if self.config["eval_protocol"] != "paper" or self._train_data is None:
            return eval_data
        return as_protocol(eval_data, self._train_data)
