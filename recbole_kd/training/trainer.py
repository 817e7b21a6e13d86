"""KDTrainer: RecBole's Trainer plus a distiller, without a training loop of its own.

From ``fit`` to a method's loss and back:

1. :meth:`KDTrainer.fit` gives the training data to the distiller (:meth:`KDTrainer.prepare`) and calls ``fit`` of
   RecBole's Trainer.
2. RecBole's ``fit`` calls ``_train_epoch`` once per epoch. :meth:`KDTrainer._train_epoch` makes the epoch repeatable.
3. :meth:`KDTrainer._timed_epoch` lets the distiller draw its item sets, every ``kd_refresh`` epochs
   (``Distiller.begin_epoch``), and the teacher score them (``TeacherAwareLoader.ask_teacher``). It then calls RecBole's
   ``_train_epoch`` with this loader and with :meth:`KDTrainer._losses`.
4. RecBole's ``_train_epoch`` iterates over the loader, whose batches carry the teacher's scores, and calls ``_losses``
   for each.
5. :class:`JointLoss` opens a step of the student's Scorer, so that the model encodes once. In this step
   :class:`BaseLoss` returns the model's own loss and ``Distiller.forward`` the method's loss, which ends in a pure
   function of :mod:`recbole_kd.losses`.
6. RecBole adds both, calls ``backward`` and steps the optimiser. Hooks of that step add the gradients of the ranks and
   clip them.
7. After the epoch RecBole's ``fit`` calls ``_valid_epoch``, which ranks the catalogue (:class:`FullRanking`). It passes
   the score to ``after_epoch`` of :meth:`KDTrainer.fit`, which writes the state to resume from.
"""
# Over 300 lines: everything that overrides RecBole's Trainer is one class; what it calls is in the modules beside.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from recbole.trainer import Trainer
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from recbole_kd.acceleration.user_passes import encode_by_user
from recbole_kd.config.argument_kinds import FUNCTION, LOADER, MODEL, NAMES, PATH, RECBOLE_CONFIG, takes
from recbole_kd.data.fingerprint import check_same_ids
from recbole_kd.data.train_items import query_items
from recbole_kd.data.vectorised_batches import TrainBatches
from recbole_kd.distiller.base import DISTILLER, Distiller
from recbole_kd.distributed.data_parallel import Ranks, ShardLoader
from recbole_kd.evaluation.full_ranking import FullRanking
from recbole_kd.integration.trainer_files import without_files
from recbole_kd.ops.threads import torch_on_one_thread
from recbole_kd.storage.screen_log import show
from recbole_kd.training.base_loss import BaseLoss
from recbole_kd.training.determinism import repeatable
from recbole_kd.training.endings import PauseError, TimeIsUpError, stopped_by, time_is_up
from recbole_kd.training.epoch_figures import distillation_figures, distillation_means, tracked_metrics
from recbole_kd.training.epoch_threads import one_is_enough
from recbole_kd.training.gradient_ratio import gradient_ratio
from recbole_kd.training.joint_loss import JointLoss, check_finite
from recbole_kd.training.optimiser import clip_gradients, fused
from recbole_kd.training.resume_state import StateFile
from recbole_kd.training.scalars import log_distillation_figures, scalar_writer
from recbole_kd.training.teacher_loader import TeacherAwareLoader, check_teacher_of
from recbole_kd.training.trainer_checks import check_batches, check_processes, check_student
from recbole_kd.training.training_state import TrainingParts
from recbole_kd.training.trajectory import Trajectory

HISTORIES = ("history", "kd_loss", "epoch_seconds", "kd_seconds")
"""Attributes of a trainer that hold one value per epoch."""


class KDTrainer(Trainer):
    """The trainer of a student on its own loss plus ``distiller.weight`` times the KD loss.

    Everything else is RecBole's: early stopping, checkpoints, progress bars, TensorBoard, mixed precision. RecBole
    clips the gradients of the model only, and before unscaling. This trainer clips at the optimiser's step, on unscaled
    gradients of all trained parameters.

    Args:
        config: RecBole's Config of the student.
        model: the student.
        distiller: None trains the model without a teacher, like RecBole's Trainer.
        checkpoint: file of the best epoch. If None, RecBole's own path.
        scalars: folder of the TensorBoard scalars. If None, RecBole's own path.
        state_file: last-epoch state for resuming. If None, no state is written.
        track: additional metrics of each epoch in :attr:`history`: ``train_ndcg`` is NDCG@10 on the training
            interactions, ``bound`` the partial NDCG of Theorem 4.4 with its bound, if there is a distiller.
        ranks: this process and those that train with it, see :mod:`recbole_kd.distributed.data_parallel`.

    Attributes:
        history: metrics of each epoch: the losses, the distiller's diagnostics, the validation score, tracked metrics.
        measures_gradients: measure the ratio of the gradient norms of KD and base loss on the first batch of each
            epoch, by two more backward passes. Off unless it is set, or a run shows its progress.
        epoch_means: losses of the last epoch per row and per query, and the ratio of gradient norms.
        pause_at: number of epochs after which :meth:`fit` writes the state and returns, so that another trainer can
            continue. None trains to the end.
    """

    tensorboard: SummaryWriter

    @takes(
        config=RECBOLE_CONFIG, model=MODEL, distiller=DISTILLER.or_none(), track=NAMES,
        checkpoint=PATH.or_none(), scalars=PATH.or_none(), state_file=PATH.or_none(),
    )  # fmt: skip
    def __init__(
        self,
        config: Any,
        model: nn.Module,
        distiller: Distiller | None = None,
        *,
        checkpoint: Path | None = None,
        scalars: Path | None = None,
        state_file: Path | None = None,
        track: Sequence[str] = (),
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks
        check_student(model, distiller)
        if config["train_by_user"]:
            encode_by_user(model)
        self.distiller = distiller.to(config["device"]) if distiller is not None else None
        if scalars is None:
            super().__init__(config, model)
        else:
            with without_files():
                super().__init__(config, model)
            self.tensorboard = scalar_writer(scalars)
        self.clip: dict[str, Any] | None = config["clip_grad_norm"]
        self.clip_grad_norm = None
        if ranks is not None:
            self.optimizer.register_step_pre_hook(ranks.add_gradients)  # before the clipping
        if self.clip:
            self.optimizer.register_step_pre_hook(self._clip_gradients)
        if checkpoint is not None:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            self.saved_model_file = str(checkpoint)
        self.state_file = StateFile(state_file) if state_file is not None else None
        self.trajectory: Trajectory | None = None
        self.max_seconds: float | None = None if config["max_minutes"] is None else 60.0 * config["max_minutes"]
        self.pause_at: int | None = None
        self.best_epoch = -1
        self.track = track
        self.history: list[dict[str, float]] = []
        self.kd_loss: list[float] = []
        self.epoch_seconds: list[float] = []
        self.kd_seconds: list[float] = []
        self.phase_seconds: dict[str, float] = {}
        self.epoch_means: dict[str, float] = {}
        self._epoch = 0
        self._resumed = False
        self.measures_gradients = False
        self._loader: TeacherAwareLoader | None = None
        self._shards: ShardLoader | None = None
        self._prepared: Any = None
        self._ranking = FullRanking(self, ranks)
        self._base_loss = BaseLoss(model, config["loss_reduction"], ranks)
        self._joint_loss: JointLoss | None = None

    # -- set-up -------------------------------------------------------------------------------------------------------

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        """Build RecBole's optimiser over model and distiller, with the fused form of Adam."""
        own = [] if self.distiller is None else list(self.distiller.parameters())
        params = kwargs.pop("params", None) or [*self.model.parameters(), *own]
        optimizer: torch.optim.Optimizer = super()._build_optimizer(params=params, **kwargs)
        return optimizer if self.enable_scaler else fused(optimizer, params)

    def _clip_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        clip_gradients(optimizer, self.clip or {})

    @takes(distiller=DISTILLER)
    def join(self, distiller: Distiller) -> None:
        """Add a distiller and its parameters, effective from the next :meth:`fit` on.

        Raises:
            ConfigError: the distiller has parameters and several of RecBole's own processes train together, which share
                only the model's gradients.
        """
        check_processes(self.config, distiller)
        self.distiller = distiller.to(self.device)
        own = list(distiller.parameters())
        if own:
            self.optimizer.add_param_group({"params": own})

    # -- training -----------------------------------------------------------------------------------------------------

    @takes(train_data=LOADER, valid_data=LOADER.or_none(), callback_fn=FUNCTION.or_none())
    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, Any]:
        """Train like RecBole's ``fit``; with a state file, :meth:`resume` can continue later.

        Raises:
            DivergedError: a loss is not finite. The message names the epoch and the term.
            TeacherError: the teacher was made on another split than this training data.
        """
        if valid_data is not None:
            check_same_ids(train_data, valid_data)
        if self._prepared is not train_data:
            self.prepare(train_data)
        if self._resumed and (
            self.start_epoch >= self.epochs
            or self.cur_step > self.stopping_step
            or self._time_is_up()
            or self._pauses_after(self.start_epoch)
        ):
            self.eval_collector.data_collect(train_data)  # like RecBole's fit, for metrics that need counts
            # The training had ended. RecBole's fit would overwrite the best checkpoint with the last epoch.
            return self.best_valid_score, self.best_valid_result
        if self.state_file is not None and self._leads:
            self.state_file.clean_up()

        def after_epoch(epoch: int, score: float) -> None:
            if self.cur_step == 0:
                self.best_epoch = epoch
            self.history[-1][f"valid_{self.valid_metric}"] = float(score)
            # First, because a training that is resumed after this epoch needs what the callback stores.
            if callback_fn is not None:
                callback_fn(epoch, score)
            pauses = self._pauses_after(epoch + 1)
            if self.state_file is not None and self._leads and self._ends_refresh(epoch):
                written = self.state_file.save(self.state, Path(self.saved_model_file), always=pauses)
                if written and self.trajectory is not None:
                    self.trajectory.state_was_written()
            if pauses:
                raise PauseError
            if self._time_is_up():
                raise TimeIsUpError

        try:
            result: tuple[float, Any] = super().fit(
                train_data, valid_data, verbose, saved, show_progress, callback_fn=after_epoch
            )
        except TimeIsUpError:
            show(
                f"      max_minutes={self.config['max_minutes']}: training stopped after {len(self.epoch_seconds)} "
                "epochs"
            )
            result = self.best_valid_score, self.best_valid_result
        except PauseError:
            result = self.best_valid_score, self.best_valid_result
        return result

    def _pauses_after(self, n_epochs: int) -> bool:
        return self.pause_at is not None and n_epochs >= self.pause_at

    @property
    def _leads(self) -> bool:
        return self.ranks is None or self.ranks.leads

    def _ends_refresh(self, epoch: int) -> bool:
        """Return whether new item sets are drawn after this epoch.

        Item sets are not saved, so a training can be resumed only before a draw.
        """
        return self.distiller is None or (epoch + 1) % self.distiller.refresh == 0

    def _time_is_up(self) -> bool:
        return time_is_up(sum(self.epoch_seconds), self.max_seconds, self.ranks)

    @property
    def stopped_by(self) -> str:
        """The key that ended the training: ``epochs``, ``stopping_step`` or ``max_minutes``."""
        return stopped_by(self.cur_step, self.stopping_step, len(self.epoch_seconds), self.epochs)

    def prepare(self, train_data: Any) -> None:
        """Give the training data to the distiller and wrap it in a teacher-aware loader.

        :meth:`fit` calls this itself.

        Raises:
            TeacherError: the teacher was made on another split.
        """
        check_batches(self.config, train_data)
        if self.ranks is not None:
            self._shards = ShardLoader(TrainBatches(train_data), self.ranks)
        self._prepared = train_data
        if self.distiller is None:
            return
        if self.ranks is not None:
            self.distiller.student_scorer.sharing = self.ranks
        teacher = self.distiller.teacher_scores
        check_teacher_of(teacher, train_data)
        self.distiller.begin_training(query_items(train_data))
        self._loader = TeacherAwareLoader(self._shards or train_data, self.distiller, teacher)
        self._joint_loss = JointLoss(self.model, self._base_loss, self.distiller, self.device)

    def resume(self, train_data: Any) -> bool:
        """Continue an interrupted training from its last saved epoch, with an identical result.

        Returns:
            False if there is no saved state.
        """
        if self.state_file is None or not self.state_file.exists():
            return False
        # First: draws that a distiller makes before training must not use the restored generators.
        self.prepare(train_data)
        self.load_state(self.state_file.load(Path(self.saved_model_file), self.device))
        self._resumed = True
        return True

    def state(self) -> dict[str, Any]:
        """Return everything that the training after the last epoch depends on.

        The values are tensors and plain values, see :meth:`load_state`. A distiller's item sets are not included, so
        only an epoch before a draw can be resumed from.
        """
        return {
            **self._parts().state(),
            "epoch": self._epoch,
            "cur_step": self.cur_step,
            "best_epoch": self.best_epoch,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": None
            if self.best_valid_result is None
            else {k: float(v) for k, v in self.best_valid_result.items()},
            "histories": {name: list(getattr(self, name)) for name in HISTORIES},
            "train_loss": {int(k): float(v) for k, v in self.train_loss_dict.items()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load a state of :meth:`state` into a new trainer that has seen :meth:`prepare`."""
        self._parts().load_state(state)
        self.start_epoch = state["epoch"] + 1
        self.cur_step, self.best_epoch = state["cur_step"], state["best_epoch"]
        self.best_valid_score, self.best_valid_result = state["best_valid_score"], state["best_valid_result"]
        self.train_loss_dict = state["train_loss"]
        for name, values in state["histories"].items():
            setattr(self, name, values)

    def _parts(self) -> TrainingParts:
        return TrainingParts(self.model, self.optimizer, self.distiller, self._prepared.generator, self.trajectory)

    def first_gradient_ratio(self, train_data: Any) -> float:
        """Return the ratio of gradient norms at the first batch, without a training step.

        It is ``grad_ratio`` of the first epoch in :attr:`history`.

        Args:
            train_data: the training loader.
        """
        self.prepare(train_data)
        distiller, loader = self.distiller, self._loader
        assert distiller is not None and loader is not None, "only a distillation has this ratio"
        with repeatable(bool(self.config["reproducibility"]) and self.device.type == "cpu"):
            self._base_loss.negatives_times = getattr(train_data, "times", 1)
            distiller.begin_epoch(0)
            loader.ask_teacher()
            self.model.train()
            distiller.train()
            base, kd = self._losses(next(iter(loader)).to(self.device))
            return float(gradient_ratio(base, kd, self.model.parameters()))

    def _train_epoch(self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False) -> Any:
        on_cpu = self.device.type == "cpu"
        with (
            repeatable(bool(self.config["reproducibility"]) and on_cpu),
            torch_on_one_thread(on_cpu and one_is_enough(self.model, self.distiller)),
        ):
            return self._timed_epoch(train_data, epoch_idx, loss_func, show_progress)

    def _timed_epoch(self, train_data: Any, epoch_idx: int, loss_func: Any, show_progress: bool) -> Any:
        started = perf_counter()
        self._epoch = epoch_idx
        self._base_loss.count_anew()
        self._base_loss.negatives_times, self._base_loss.is_first = (
            getattr(train_data, "times", 1),
            not self.epoch_seconds,
        )
        if self.distiller is None:
            losses = super()._train_epoch(
                self._shards or TrainBatches(train_data), epoch_idx, loss_func or self._base_loss, show_progress
            )
            losses = self._over_ranks(losses)
            base_loss = sum(losses) if isinstance(losses, tuple) else losses
            self.history.append({"base_loss": base_loss})
            self.epoch_means = {"base_loss": self._base_loss.mean_of(base_loss)}
        else:
            assert self._loader is not None and self._joint_loss is not None, "prepare() comes before training"
            due = self.distiller.is_due(epoch_idx) or not self.kd_loss
            if due:
                self._loader.let_go()
            self.distiller.begin_epoch(epoch_idx, draw=due)
            drawn = perf_counter()
            self._loader.ask_teacher()
            asked = perf_counter()
            self.distiller.train()
            self._joint_loss.begin_epoch(
                epoch_idx, self.measures_gradients and self.ranks is None and not self.enable_scaler
            )
            losses = self._over_ranks(super()._train_epoch(self._loader, epoch_idx, self._losses, show_progress))
            self.phase_seconds = {
                "item_sets": drawn - started,
                "teacher_scores": asked - drawn,
                "steps": perf_counter() - asked,
            }
            self.kd_seconds.append(asked - started)
            self.kd_loss.append(self._over_ranks(float(self._joint_loss.kd_sum)))
            self._log_distillation(epoch_idx, losses[0], self._joint_loss)
        self.epoch_seconds.append(perf_counter() - started)
        self.history[-1] |= tracked_metrics(self.track, self.model, train_data, self.distiller)
        return losses

    def _losses(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """Return (base loss, weighted KD loss) of a batch. RecBole adds them and logs both."""
        assert self._joint_loss is not None, "prepare() comes before training"
        return self._joint_loss(interaction)

    def _check_nan(self, loss: Tensor) -> None:
        distils = self.distiller is not None
        check_finite(loss, "sum of the losses" if distils else "loss", self.model, distils, self._epoch)

    def _log_distillation(self, epoch: int, base_loss: float, joint: JointLoss) -> None:
        """Add an epoch's figures to the history, and log them."""
        distiller, kd_loss = joint.distiller, self.kd_loss[-1]
        ratio = None if joint.grad_ratio is None else float(joint.grad_ratio)
        n = self._over_ranks(float(joint.queries)) if distiller.reduction == "sum" else self._base_loss.batches
        self.epoch_means = distillation_means(self._base_loss.mean_of(base_loss), kd_loss, n, ratio)
        figures = distillation_figures(distiller, base_loss, kd_loss, ratio)
        self.history.append(figures)
        log_distillation_figures(self, figures, epoch)
        words = ", ".join(f"{name}: {value:.4f}" for name, value in figures.items())
        self.logger.info(f"epoch {epoch} distillation [{words}]")

    # -- evaluation ---------------------------------------------------------------------------------------------------

    @takes(eval_data=LOADER)
    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: str | None = None, show_progress: bool = False
    ) -> dict[str, float] | None:
        """Return the metrics of a loader, like RecBole's ``evaluate``.

        Raises:
            DataError: the loader has other users or items than the data that the model was trained on.
        """
        if self._prepared is not None:
            check_same_ids(self._prepared, eval_data)
        found: dict[str, float] | None = self._ranking.evaluate(
            super().evaluate, eval_data, load_best_model, model_file, show_progress
        )
        return found

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, Any]:
        return self._ranking.valid_epoch(super()._valid_epoch, valid_data, show_progress)

    def _full_sort_batch_eval(self, batched_data: Any) -> Any:
        return self._ranking.full_sort_batch(super()._full_sort_batch_eval, batched_data)

    def _neg_sample_batch_eval(self, batched_data: Any) -> Any:
        return self._ranking.sampled_batch(super()._neg_sample_batch_eval, batched_data)

    # -- several processes --------------------------------------------------------------------------------------------

    def _over_ranks(self, losses: Any) -> Any:
        """Return the sums over all processes of an epoch's losses, one loss or a tuple."""
        if self.ranks is None:
            return losses
        sums = self.ranks.sum(list(losses) if isinstance(losses, tuple) else [losses])
        return tuple(sums) if isinstance(losses, tuple) else sums[0]
