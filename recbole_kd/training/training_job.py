"""A training from a Config to metrics: loaders, model, distiller, trainer, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import get_trainer, init_seed
from torch import nn

from recbole_kd.acceleration.accelerate import accelerate_on_cpu
from recbole_kd.data.histories.sequence_dataset import stage_parts, universe_of
from recbole_kd.data.split_and_loaders import Loaders, Splits, evaluation_batch_size, make_loaders
from recbole_kd.distiller.base import Distiller
from recbole_kd.distributed.data_parallel import Ranks, several
from recbole_kd.errors import ConfigError, DivergedError
from recbole_kd.evaluation.full_ranking import evaluate_by_full_ranking
from recbole_kd.integration.compat import quiet_warnings
from recbole_kd.integration.trainer_files import without_files
from recbole_kd.model.build_model import fresh_model
from recbole_kd.model.loss_reduction import initialise, reduction_note
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.scoring.vector_check import check_vectors
from recbole_kd.scoring.vector_models import softmax_of
from recbole_kd.storage.disk_full import full_disk_is_said
from recbole_kd.storage.screen_log import show
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.metrics import RankCurves, best_epoch_metrics, distillation_metrics, ending
from recbole_kd.training.on_cluster import train_on_cluster
from recbole_kd.training.pretraining import pretrain
from recbole_kd.training.progress import Progress, epoch_report
from recbole_kd.training.scalars import scalar_writer
from recbole_kd.training.trainer import KDTrainer
from recbole_kd.training.trajectory import Trajectory

CHECKPOINT, STATE = "best.pth", "state.pt"
"""File names of a training in its own folder."""

AfterEpoch = Callable[[int, float], None]
StartingWeights = Callable[[nn.Module, Any], None]


@dataclass(frozen=True)
class TrainingFiles:
    """Paths that a training writes to.

    Attributes:
        checkpoint: file of the best epoch.
        scalars: folder of the TensorBoard scalars.
        state: file of the last epoch, to resume from. The caller removes it.
    """

    checkpoint: Path
    scalars: Path
    state: Path

    @classmethod
    def in_folder(cls, folder: Path, scalars: Path) -> TrainingFiles:
        """Return the paths with checkpoint and state in one folder."""
        return cls(folder / CHECKPOINT, scalars, folder / STATE)


@dataclass(frozen=True)
class TrainingJob:
    """A model to train, with or without a teacher, and the paths of its files.

    Attributes:
        config: RecBole's Config of the model.
        splits: the data.
        files: the paths.
        resume: continue an interrupted training from ``files.state`` if it exists.
        teacher: the teacher's scores. None trains the model without a teacher.
        trajectory: keeps checkpoints of the training.
        after_epoch: callback with each epoch and its validation score. It cannot be combined with a trajectory.
        progress: shows the epochs, in place of RecBole's progress bars.
        start: puts first weights into the new model, whose data set it is given. None leaves the model's own.
    """

    config: Any
    splits: Splits
    files: TrainingFiles
    resume: bool = False
    teacher: TeacherScores | None = None
    trajectory: Trajectory | None = None
    after_epoch: AfterEpoch | None = None
    progress: Progress | None = None
    start: StartingWeights | None = None

    def train(self) -> tuple[nn.Module, dict[str, Any]]:
        """Train on ``nproc`` processes and return the model of the best epoch with its metrics.

        With ``ray_address`` they are workers of a Ray cluster.

        Raises:
            DivergedError: a loss or a score is not finite.
            TrainingError: a process failed.
            ConfigError: the Config asks for what this training cannot do.
        """
        address = self.config["ray_address"]
        if address and self.processes > 1:
            return train_on_cluster(self, address)
        follower = replace(self, trajectory=None, after_epoch=None, progress=None)  # only the leader uses them
        with several(self.processes, self.config["device"], follower.follow) as ranks:
            return self.run(ranks)

    def run(self, ranks: Ranks | None = None) -> tuple[nn.Module, dict[str, Any]]:
        """Run the job in this process, alone or as one of ``ranks``; see :meth:`train`."""
        trainer, model, loaders = self._set_up(ranks)
        with closing(trainer.tensorboard):  # its thread would go on writing into the folder of a failed run
            curves, distiller = None, getattr(trainer, "distiller", None)
            if distiller is not None:
                curves = RankCurves(
                    distiller.student_scorer, distiller.teacher_scores, "teacher_ranks" in trainer.track
                )
            self.fit(trainer, loaders)
            metrics = best_epoch_metrics(trainer, model, loaders, self._shows_bars)
            if curves is not None:
                metrics.update(curves.after_training())
        if self.teacher is not None:
            metrics.update(distillation_metrics(trainer, self.teacher))
        elif isinstance(trainer, KDTrainer):
            metrics.update(ending(trainer))
        return model, metrics

    def advance(self, epochs: int) -> tuple[float, int]:
        """Train until so many epochs are done, and keep the state.

        Another job with the same state file continues from there.

        Returns:
            the best validation score, and the epochs that were done at it.

        Raises:
            DivergedError: a loss or a score is not finite.
        """
        trainer, _, loaders = self._set_up(None)
        trainer.pause_at = epochs
        with closing(trainer.tensorboard):
            self.fit(trainer, loaders)
        return float(trainer.best_valid_score), int(trainer.best_epoch) + 1

    def first_gradient_ratio(self) -> float:
        """Return the gradient norm of the weighted KD loss over that of the base loss, at the first batch."""
        trainer, _, loaders = self._set_up(None)
        with closing(trainer.tensorboard):
            return float(trainer.first_gradient_ratio(loaders.train))

    def _set_up(self, ranks: Ranks | None) -> tuple[Any, nn.Module, Loaders]:
        """Return trainer, model and loaders, before the first epoch."""
        model, loaders = self.model_and_loaders()
        check_vectors(Scorer(model, universe_of(loaders.train)))
        model = self._pretrained(model, loaders)
        distiller = None if self.teacher is None else build_distiller(self.config, model, self.teacher, loaders.train)
        return self._trainer(model, distiller, ranks), model, loaders

    def _pretrained(self, model: nn.Module, loaders: Loaders) -> nn.Module:
        """Train the stages of a model that come before its training, if it has any."""
        earlier = replace(self, trajectory=None, after_epoch=None, progress=None)
        folder = self.files.checkpoint.parent
        folder.mkdir(parents=True, exist_ok=True)
        return pretrain(
            self.config,
            model,
            loaders.train._dataset,
            folder,
            lambda built: earlier._trainer(built, None, None),
            lambda trainer: earlier.fit(trainer, loaders),
        )

    def follow(self, ranks: Ranks, folder: Path) -> None:
        """Run the job in a worker process, with its own files in a temporary folder.

        It reads the leader's state.
        """
        self.config["device"], self.config["show_progress"] = ranks.device, False  # this is the process's own copy
        files = TrainingFiles(folder / CHECKPOINT, folder / "scalars", self.files.state)
        with quiet_warnings():
            replace(self, files=files).run(ranks)

    @property
    def processes(self) -> int:
        """Number of processes that train together, 1 if the model needs a special RecBole trainer."""
        return int(self.config["nproc"] or 1) if self._recbole_trainer.__name__ == "Trainer" else 1

    @property
    def _recbole_trainer(self) -> type:
        kind: type = get_trainer(self.config["MODEL_TYPE"], self.config["model"])
        return kind

    def model_and_loaders(self) -> tuple[nn.Module, Loaders]:
        """Return a new model and its loaders, seeded as RecBole's run_recbole does."""
        config, splits = self.config, self.splits
        init_seed(config["seed"], config["reproducibility"])
        parts = stage_parts(config, splits.parts)
        model = fresh_model(config, parts[0])
        accelerate_on_cpu(model, softmax_of(model))
        initialise(model, config["init_std"])
        if self.start is not None:
            self.start(model, splits.dataset)
        getLogger().info(reduction_note(model, config))
        if "eval_batch_size" not in config.external_config_dict:
            config["eval_batch_size"] = evaluation_batch_size(
                model, splits.n_users, splits.n_items + 1, config["eval_memory_mb"]
            )
        return model, make_loaders(config, splits, parts)

    def _trainer(self, model: nn.Module, distiller: Distiller | None, ranks: Ranks | None) -> Any:
        """Return a KDTrainer, or RecBole's special trainer of the model with our evaluation."""
        config, files, kind = self.config, self.files, self._recbole_trainer
        if self.teacher is None:
            config["checkpoint_dir"] = str(files.checkpoint.parent)
        if kind.__name__ == "Trainer":
            track = () if distiller is None else config["kd_track"] or ()
            where = {"checkpoint": files.checkpoint, "scalars": files.scalars, "state_file": files.state}
            return KDTrainer(config, model, distiller, track=track, ranks=ranks, **where)
        self._refuse_cap(kind.__name__)
        files.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with without_files():
            trainer: Any = kind(config, model)
        trainer.tensorboard = scalar_writer(files.scalars)
        evaluate_by_full_ranking(trainer)
        return trainer

    def _refuse_cap(self, trainer: str) -> None:
        """Refuse ``max_minutes`` with RecBole's special trainers, which ignore it (ConfigError)."""
        config = self.config
        if config["max_minutes"] is not None:
            raise ConfigError(
                f"max_minutes={config['max_minutes']} is not possible with {config['model']}, which RecBole trains "
                f"with its {trainer}: leave it out, or set epochs"
            )

    @property
    def _shows_bars(self) -> bool:
        return bool(self.config["show_progress"]) and self.progress is None

    def _callback(self, trainer: Any, loaders: Loaders) -> AfterEpoch | None:
        """Return the callback that RecBole calls after each validation."""
        inner = self.after_epoch if self.trajectory is None else self.trajectory.after_epoch
        progress = self.progress
        if progress is None:
            return inner

        def after_epoch(epoch: int, score: float) -> None:
            progress.epoch(epoch_report(trainer, epoch, score, len(loaders.train)))
            if inner is not None:
                inner(epoch, score)

        return after_epoch

    def fit(self, trainer: Any, loaders: Loaders) -> None:
        """Train, from the start or from the saved state.

        Raises:
            DivergedError: the loss is not finite.
            StorageError: the disk is full.
        """
        config, trajectory = self.config, self.trajectory
        if isinstance(trainer, KDTrainer):
            trainer.measures_gradients = self.progress is not None
            trainer.trajectory = trajectory  # before the state is read, because the state lists its snapshots
        resumed = self.resume and isinstance(trainer, KDTrainer) and trainer.resume(loaders.train)
        if self.resume and isinstance(trainer, KDTrainer) and trainer.ranks is not None:
            trainer.ranks.check_same_epoch(trainer.start_epoch)
        if resumed and trainer.pause_at is None:
            show(f"      Continuing {config['model']} from epoch {trainer.start_epoch}")
        if trajectory is not None:
            trajectory.follow(trainer, resumed)
        callback = self._callback(trainer, loaders)
        folder = Path(trainer.saved_model_file).parent
        try:
            with full_disk_is_said(
                folder, f"free some, and continue the training of {config['model']} with --resume=True"
            ):
                trainer.fit(
                    loaders.train,
                    loaders.valid,
                    saved=True,
                    show_progress=self._shows_bars,
                    callback_fn=callback,
                )
        except ValueError as error:  # RecBole's own trainers give no other sign of a NaN loss
            if str(error) != "Training loss is nan":
                raise
            raise DivergedError(
                f"The loss of {config['model']} is nan: lower learning_rate, or set clip_grad_norm={{'max_norm': 1.0}}"
            ) from error
