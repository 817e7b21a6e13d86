"""Add a distiller to a user's own trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from recbole.trainer.trainer import AbstractTrainer
from torch import Tensor

from recbole_kd.config.argument_kinds import instance_of, takes
from recbole_kd.data.histories.recbole_rows import sequence_queries
from recbole_kd.data.train_items import query_items
from recbole_kd.distiller.base import DISTILLER, Distiller
from recbole_kd.errors import ConfigError
from recbole_kd.model.loss_reduction import sums_itself
from recbole_kd.training.teacher_loader import TeacherAwareLoader, check_teacher_of
from recbole_kd.training.trainer import KDTrainer


@takes(trainer=instance_of(AbstractTrainer, words="a trainer of RecBole"), distiller=DISTILLER)
def distil(trainer: Trainer, distiller: Distiller) -> Trainer:
    """Let a trainer distil: add the weighted loss of a distiller to its model's loss.

    The trainer keeps its class and its methods. Its ``_train_epoch``, which may be its own or RecBole's, must call
    ``self.model.calculate_loss`` on the batches of the loader that it is given.

    Args:
        trainer: an instance of RecBole's Trainer or of a subclass.
        distiller: see :func:`recbole_kd.build_distiller`.

    Returns:
        The same trainer. ``kd_loss`` lists the distiller's unweighted loss per epoch.

    Raises:
        ConfigError: RecBole trains this model with a special trainer, or the trainer distils already. In ``fit``: the
            trainer never calls ``calculate_loss``, so that nothing would be distilled.
    """
    theirs = next((kind for kind in type(trainer).__mro__ if kind.__module__.startswith("recbole.trainer")), None)
    if isinstance(trainer, KDTrainer):
        trainer.join(distiller)
        return trainer
    if theirs is not Trainer:
        name = theirs.__name__ if theirs is not None else type(trainer).__name__
        raise ConfigError(
            f"{type(distiller).__name__} cannot join {name}, which has no single loss to add the distillation to: take "
            "a trainer that derives from recbole.trainer.Trainer, for a model that RecBole's plain Trainer trains"
        )
    if getattr(trainer, "distiller", None) is not None:
        raise ConfigError(f"This trainer distils already, by {type(trainer.distiller).__name__}: make a new one")
    if trainer.config["loss_reduction"] == "sum" and not sums_itself(trainer.model):
        raise ConfigError(
            f"loss_reduction=sum is not possible with {type(trainer).__name__}, which takes the model's own loss: "
            "derive the trainer from recbole_kd.KDTrainer, or leave it out"
        )
    _Joint(trainer, distiller)
    return trainer


class _Joint:
    """The hooks that make a user's trainer distil."""

    def __init__(self, trainer: Any, distiller: Distiller) -> None:
        self.trainer = trainer
        self.distiller = distiller.to(trainer.device)
        self.kd_loss: list[float] = []
        self._train_data: Any = None
        self._loader: TeacherAwareLoader | None = None
        self._asked = 0
        self._sum = torch.zeros((), dtype=torch.float64, device=trainer.device)
        own = list(distiller.parameters())
        if own:
            trainer.optimizer.add_param_group({"params": own})
        trainer.distiller, trainer.kd_loss = self.distiller, self.kd_loss
        self._fit, trainer.fit = trainer.fit, self.fit
        self._train_epoch, trainer._train_epoch = trainer._train_epoch, self.train_epoch

    def fit(self, *args: Any, **options: Any) -> Any:
        before = len(self.kd_loss)
        result = self._fit(*args, **options)
        if len(self.kd_loss) == before and self.trainer.epochs > self.trainer.start_epoch:
            raise self._never_asked("fit", "_train_epoch")
        return result

    def train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **options: Any) -> Any:
        """Run the trainer's epoch over the teacher-aware loader, with the joint loss."""
        loader, distiller = self._prepared(train_data), self.distiller
        if epoch_idx % distiller.refresh == 0 or not self.kd_loss:
            loader.let_go()
            distiller.begin_epoch(epoch_idx)
        loader.ask_teacher()
        distiller.train()
        self._asked = 0
        self._sum.zero_()
        with self._joint_loss(loader):
            result = self._train_epoch(loader, epoch_idx, *args, **options)
        if not self._asked:
            raise self._never_asked("_train_epoch", "self.model.calculate_loss")
        self.kd_loss.append(float(self._sum))
        self.trainer.logger.info(f"epoch {epoch_idx} distillation [kd_loss: {self.kd_loss[-1]:.4f}]")
        return result

    def _prepared(self, train_data: Any) -> TeacherAwareLoader:
        if self._loader is None or self._train_data is not train_data:
            sequence_queries(train_data)
            teacher = self.distiller.teacher_scores
            check_teacher_of(teacher, train_data)
            self.distiller.begin_training(query_items(train_data))
            self._train_data, self._loader = train_data, TeacherAwareLoader(train_data, self.distiller, teacher)
        return self._loader

    @contextmanager
    def _joint_loss(self, loader: TeacherAwareLoader) -> Iterator[None]:
        model = self.trainer.model
        own = vars(model).get("calculate_loss")
        base: Callable[..., Any] = model.calculate_loss

        def calculate_loss(interaction: Interaction, *args: Any, **options: Any) -> Tensor | tuple[Tensor, ...]:
            with self.distiller.student_scorer.step(interaction):
                loss = base(interaction, *args, **options)
                unweighted = self._kd_loss(loader, interaction)
            self._sum += unweighted.detach()
            self._asked += 1
            kd = self.distiller.weight * unweighted
            return (*loss, kd) if isinstance(loss, tuple) else loss + kd

        model.calculate_loss = calculate_loss
        try:
            yield
        finally:
            if own is None:
                del model.calculate_loss
            else:
                model.calculate_loss = own

    def _kd_loss(self, loader: TeacherAwareLoader, interaction: Interaction) -> Tensor:
        batch = getattr(interaction, "kd", None)  # a trainer may have built a new Interaction from a batch
        batch = loader.batch_for(interaction) if batch is None else batch
        if not len(batch.queries):
            return torch.zeros((), device=self.trainer.device)
        loss: Tensor = self.distiller(batch)
        return loss if self.distiller.reduction == "sum" else loss * batch.share

    def _never_asked(self, where: str, what: str) -> ConfigError:
        return ConfigError(
            f"{type(self.trainer).__name__}.{where} never calls {what}, so that nothing was distilled: derive the "
            f"trainer from recbole_kd.KDTrainer, or train through {what}"
        )
