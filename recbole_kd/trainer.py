"""KDTrainer: RecBole's Trainer plus a distiller. It has no training loop of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from recbole.trainer import Trainer
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from recbole_kd.data.teacher_loader import TeacherAwareLoader, train_items
from recbole_kd.distiller.base import Distiller
from recbole_kd.errors import TrainingError
from recbole_kd.resume import TrainingState
from recbole_kd.teacher.fingerprint import data_fingerprint


class KDTrainer(Trainer):
    """Trains a student on its own loss plus ``distiller.weight`` times the distiller's.

    Everything else is RecBole's: early stopping, checkpoints, progress bars, TensorBoard, mixed precision. Gradient clipping, which RecBole
    applies to the model alone and before unscaling, happens here at the optimiser's step: on unscaled gradients, over all that is trained.

    Args:
        config: RecBole's Config of the student. model: the student.
        distiller: None trains the model alone, as RecBole's Trainer does.
        checkpoint: file of the best epoch; scalars: folder of the TensorBoard scalars; RecBole's own places when None.
        state_file: last-epoch state for resuming; not kept when None.
    """

    tensorboard: SummaryWriter

    def __init__(
        self,
        config: Any,
        model: nn.Module,
        distiller: Distiller | None = None,
        *,
        checkpoint: Path | None = None,
        scalars: Path | None = None,
        state_file: Path | None = None,
    ) -> None:
        self.distiller = distiller.to(config["device"]) if distiller is not None else None
        super().__init__(config, model)
        self.clip: dict[str, Any] | None = config["clip_grad_norm"]
        self.clip_grad_norm = None
        if self.clip:
            self.optimizer.register_step_pre_hook(self._clip_gradients)
        if checkpoint is not None:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            self.saved_model_file = str(checkpoint)
        if scalars is not None:
            self._move_scalars(scalars)
        self.state = TrainingState(state_file) if state_file is not None else None
        self.best_epoch = -1
        self.kd_loss: list[float] = []
        self.epoch_seconds: list[float] = []
        self.kd_seconds: list[float] = []
        self.phase_seconds: dict[str, float] = {}
        self._term = ""
        self._epoch = 0
        self._loader: TeacherAwareLoader | None = None

    # -- set-up -------------------------------------------------------------------------------------------------------

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        own = [] if self.distiller is None else list(self.distiller.parameters())
        params = kwargs.pop("params", None) or [*self.model.parameters(), *own]
        optimizer: torch.optim.Optimizer = super()._build_optimizer(params=params, **kwargs)
        return optimizer

    def _clip_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(params, **(self.clip or {}))

    def _move_scalars(self, folder: Path) -> None:
        # RecBole has just opened a writer under ./log_tensorboard: a run keeps its scalars in its own folder instead
        opened = Path(self.tensorboard.log_dir)
        self.tensorboard.close()
        shutil.rmtree(opened, ignore_errors=True)
        if opened.parent.is_dir() and not any(opened.parent.iterdir()):
            opened.parent.rmdir()
        self.tensorboard = SummaryWriter(str(folder))

    # -- training -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, Any]:
        """As RecBole's; see there. With a state file the training can be continued by :meth:`resume`.

        Raises:
            TrainingError: a loss is not a finite number; names the epoch and the term.
            TeacherError: the teacher was made on another split than this training data.
        """
        self.prepare(train_data)
        if self.state is not None:
            self.state.attach(self, train_data)

        def after_epoch(epoch: int, score: float) -> None:
            if self.cur_step == 0:
                self.best_epoch = epoch
            if self.state is not None:
                self.state.save(self, epoch)
            if callback_fn is not None:
                callback_fn(epoch, score)

        result: tuple[float, Any] = super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn=after_epoch)
        return result

    def prepare(self, train_data: Any) -> None:
        """Show the training data to the distiller and wrap it in a teacher-aware loader; :meth:`fit` does so itself.

        Raises:
            TeacherError: the teacher was made on another split.
        """
        if self.distiller is None:
            return
        teacher = self.distiller.teacher_scores
        if "data" in teacher.manifest:
            teacher.check_data(data_fingerprint(train=train_data))
        self.distiller.begin_training(train_items(train_data))
        self._loader = TeacherAwareLoader(train_data, self.distiller, teacher)

    def resume(self, train_data: Any) -> bool:
        """Continue from the last epoch of an interrupted training, to the result that it would have had. False when there is none."""
        return self.state is not None and self.state.restore(self, train_data)

    def _train_epoch(self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False) -> Any:
        started = perf_counter()
        self._epoch = epoch_idx
        if self.distiller is None:
            losses = super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        else:
            assert self._loader is not None, "prepare() comes before training"
            if epoch_idx % self.distiller.refresh == 0 or not self.kd_loss:
                self.distiller.begin_epoch(epoch_idx)
            drawn = perf_counter()
            self._loader.ask_teacher()
            asked = perf_counter()
            self.distiller.train()
            losses = super()._train_epoch(self._loader, epoch_idx, self._losses, show_progress)
            self.phase_seconds = {"item_sets": drawn - started, "teacher_scores": asked - drawn, "steps": perf_counter() - asked}
            self.kd_seconds.append(asked - started)
            self.kd_loss.append(losses[1] / self.distiller.weight if self.distiller.weight else 0.0)
            self._log_distillation(epoch_idx, losses)
        self.epoch_seconds.append(perf_counter() - started)
        return losses

    def _losses(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """(base loss, weighted KD loss) of a batch; RecBole adds them and logs both."""
        distiller = self.distiller
        assert distiller is not None
        with distiller.student_scorer.step():
            self._term = "base loss"
            base = self.model.calculate_loss(interaction)
            if isinstance(base, tuple):
                base = torch.stack(base).sum()
            self._check_nan(base)
            self._term = f"KD loss ({type(distiller).__name__})"
            kd = distiller.weight * distiller(interaction.kd)
            self._check_nan(kd)
        self._term = "sum of the losses"
        return base, kd

    def _check_nan(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The {self._term or 'loss'} is {loss.item()} in epoch {self._epoch}: lower learning_rate or kd_weight, "
                "raise kd_temperature, or set clip_grad_norm={'max_norm': 1.0}"
            )

    def _log_distillation(self, epoch: int, losses: tuple[float, float]) -> None:
        assert self.distiller is not None
        figures = {"base_loss": losses[0], "kd_loss": self.kd_loss[-1], **self.distiller.diagnostics()}
        for name, value in figures.items():
            self.tensorboard.add_scalar(f"KD/{name}", value, epoch)
        words = ", ".join(f"{name}: {value:.4f}" for name, value in figures.items())
        self.logger.info(f"epoch {epoch} distillation [{words}]")
