"""One training: a fresh model, its loaders, its trainer, and the figures of its best epoch."""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.utils import get_trainer, init_seed
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from recbole_kd.acceleration.accelerate import accelerate_on_cpu
from recbole_kd.data.histories.sequence_dataset import stage_parts, universe_of
from recbole_kd.data.split_and_loaders import Loaders, Splits, evaluation_batch_size, make_loaders
from recbole_kd.distributed.data_parallel import Ranks, several
from recbole_kd.errors import ConfigError, TrainingError
from recbole_kd.evaluation.efficiency import inference_us_per_user, peak_rss_mb
from recbole_kd.evaluation.full_ranking import RankingEvaluation
from recbole_kd.evaluation.teacher_rank_curve import rank_curve
from recbole_kd.model.build_model import fresh_model
from recbole_kd.model.loss_reduction import conversion_words, initialise
from recbole_kd.model.size import size_of
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.scoring.vector_models import softmax_of
from recbole_kd.storage.disk_full import full_disk_is_said
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.tensorboard import without_recbole_scalars
from recbole_kd.training.trainer import KDTrainer
from recbole_kd.training.trajectory import Trajectory


def _prepare(config: Any, splits: Splits) -> tuple[nn.Module, Loaders]:
    """A fresh model and its loaders, seeded as RecBole's run_recbole does."""
    init_seed(config["seed"], config["reproducibility"])
    parts = stage_parts(config, splits.parts)
    model = fresh_model(config, parts[0])
    accelerate_on_cpu(model, softmax_of(model))
    initialise(model, config["init_std"])
    getLogger().info(conversion_words(model, config))
    if "eval_batch_size" not in config.external_config_dict:
        config["eval_batch_size"] = evaluation_batch_size(model, splits.n_users, splits.n_items + 1, config["eval_memory_mb"])
    loaders = make_loaders(config, splits, parts)
    return model, loaders


def _figures(trainer: Any, model: nn.Module, loaders: Loaders, config: Any) -> dict[str, Any]:
    """Validation and test metrics of the best epoch, size and speed."""
    has_weights = bool(list(model.parameters()))
    figures = {}
    for index, (name, data) in enumerate((("valid", loaders.valid), ("test", loaders.test))):
        best = has_weights and index == 0
        metrics = trainer.evaluate(data, load_best_model=best, show_progress=config["show_progress"])
        figures[name] = {key: float(value) for key, value in metrics.items()}
    return {**figures, **size_of(model), "inference_us_per_user": inference_us_per_user(Scorer(model, universe_of(loaders.train)))}


AfterEpoch = Callable[[int, float], None]


def _fit(
    trainer: Any, config: Any, loaders: Loaders, resume: bool, trajectory: Trajectory | None = None, after: AfterEpoch | None = None
) -> None:
    resumed = resume and isinstance(trainer, KDTrainer) and trainer.resume(loaders.train)
    if resumed:
        getLogger().info(f"Continuing {config['model']} from epoch {trainer.start_epoch}")
    if trajectory is not None:
        trajectory.follow(trainer, resumed)
    callback = after if trajectory is None else trajectory.after_epoch
    place = Path(trainer.saved_model_file).parent
    try:
        with full_disk_is_said(place, f"free some, and continue the training of {config['model']} with --resume=True"):
            trainer.fit(loaders.train, loaders.valid, saved=True, show_progress=config["show_progress"], callback_fn=callback)
    except ValueError as error:  # RecBole's own trainers say no more than this
        if str(error) != "Training loss is nan":
            raise
        raise TrainingError(
            f"The loss of {config['model']} is nan: lower learning_rate, or set clip_grad_norm={{'max_norm': 1.0}}"
        ) from error


def train_alone(
    config: Any, splits: Splits, work: Path, scalars: Path, *, resume: bool, trajectory: Trajectory | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a model without distillation; ``work`` holds its checkpoint and last-epoch state until it is finished."""
    plain = get_trainer(config["MODEL_TYPE"], config["model"]).__name__ == "Trainer"
    state_file, payload = work / "state.pt", (config, splits, work / "state.pt", resume)
    with several(processes_of(config) if plain else 1, config["device"], _follow_alone, payload) as ranks:
        return _alone(config, splits, work, scalars, state_file, resume, trajectory, ranks)


def _follow_alone(ranks: Ranks, payload: Any, own: Path) -> None:
    config, splits, state_file, resume = payload
    _alone(_of_follower(config, ranks), splits, own, own / "scalars", state_file, resume, None, ranks)


def _alone(
    config: Any,
    splits: Splits,
    work: Path,
    scalars: Path,
    state_file: Path,
    resume: bool,
    trajectory: Trajectory | None,
    ranks: Ranks | None,
) -> tuple[nn.Module, dict[str, Any]]:
    model, loaders = _prepare(config, splits)
    kind = get_trainer(config["MODEL_TYPE"], config["model"])
    config["checkpoint_dir"] = str(work)
    if kind.__name__ == "Trainer":
        trainer: Any = KDTrainer(config, model, checkpoint=work / "best.pth", scalars=scalars, state_file=state_file, ranks=ranks)
    else:
        _refuse_cap(config, kind.__name__)
        with without_recbole_scalars():
            trainer = type(kind.__name__, (RankingEvaluation, kind), {})(config, model)
            trainer.tensorboard.close()
        trainer.tensorboard = SummaryWriter(str(scalars))
    _fit(trainer, config, loaders, resume, trajectory)
    figures = _figures(trainer, model, loaders, config)
    if isinstance(trainer, KDTrainer):
        figures.update(epochs=len(trainer.epoch_seconds), best_epoch=trainer.best_epoch, stopped_by=trainer.stopped_by)
    return model, figures


def _refuse_cap(config: Any, trainer: str) -> None:
    """RecBole's own trainers, each with a loop of its own, know no cap.

    Raises:
        ConfigError: ``max_minutes`` is set.
    """
    if config["max_minutes"] is not None:
        raise ConfigError(
            f"max_minutes={config['max_minutes']} is not possible with {config['model']}, which RecBole trains with its {trainer}: "
            "leave it out, or set epochs"
        )


def processes_of(config: Any) -> int:
    """How many processes train together."""
    return int(config["nproc"] or 1)


def _of_follower(config: Any, ranks: Ranks) -> Any:
    config["device"], config["show_progress"] = ranks.device, False
    return config


def train_distilled(
    config: Any,
    splits: Splits,
    teacher: TeacherScores,
    *,
    checkpoint: Path,
    scalars: Path,
    state_file: Path,
    resume: bool,
    after_epoch: AfterEpoch | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """A model trained under a teacher, and its figures. The state file stays: it is the caller's to remove.

    ``after_epoch`` gets each epoch and its validation score.
    """
    files = {"checkpoint": checkpoint, "scalars": scalars, "state_file": state_file}
    payload = (config, splits, teacher, state_file, resume)
    with several(processes_of(config), config["device"], _follow_distilled, payload) as ranks:
        return _distilled(config, splits, teacher, files, resume, after_epoch, ranks)


def _follow_distilled(ranks: Ranks, payload: Any, own: Path) -> None:
    config, splits, teacher, state_file, resume = payload
    files = {"checkpoint": own / "best.pth", "scalars": own / "scalars", "state_file": state_file}
    _distilled(_of_follower(config, ranks), splits, teacher, files, resume, None, ranks)


def _distilled(
    config: Any,
    splits: Splits,
    teacher: TeacherScores,
    files: dict[str, Path],
    resume: bool,
    after_epoch: AfterEpoch | None,
    ranks: Ranks | None,
) -> tuple[nn.Module, dict[str, Any]]:
    model, loaders = _prepare(config, splits)
    distiller = build_distiller(config, model, teacher, loaders.train)
    trainer = KDTrainer(config, model, distiller, track=config["kd_track"] or (), ranks=ranks, **files)
    curves = _RankCurves(distiller.student_scorer, distiller.teacher_scores, "teacher_ranks" in trainer.track)
    _fit(trainer, config, loaders, resume, after=after_epoch)
    figures = {**_figures(trainer, model, loaders, config), **curves.after_training()}
    if distiller.student_scorer.index is not None:
        of_teachers = [index.report() for member in teacher.members if (index := getattr(member, "index", None)) is not None]
        figures["candidate_index"] = {**distiller.student_scorer.index.report(), **({"teacher": of_teachers} if of_teachers else {})}
    seconds, kd_seconds = trainer.epoch_seconds, trainer.kd_seconds
    return model, {
        **figures,
        "epochs": len(seconds),
        "best_epoch": trainer.best_epoch,
        "stopped_by": trainer.stopped_by,
        "kd_loss": trainer.kd_loss,
        "seconds_per_epoch": _mean(seconds),
        "kd_seconds_per_epoch": _mean(kd_seconds),
        "peak_rss_mb": peak_rss_mb(),
        "history": _by_name(trainer.history),
    }


class _RankCurves:
    """The student's mean rank of the teacher's k-th item, k = 1..50, before and after its training."""

    def __init__(self, student: Scorer, teacher: TeacherScores, wanted: bool) -> None:
        self.scorer, self.start = student, None
        if wanted:
            queries = torch.arange(teacher.n_queries, device=self.scorer.device)
            self.lists = teacher.top_k(queries, min(50, teacher.n_items - 1))[0]
            self.start = rank_curve(self.scorer, self.lists)

    def after_training(self) -> dict[str, Any]:
        return {} if self.start is None else {"teacher_ranks": {"start": self.start, "end": rank_curve(self.scorer, self.lists)}}


def _by_name(epochs: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """Each figure's values by epoch, None where an epoch has none, as validation every other epoch."""
    return {name: [epoch.get(name) for epoch in epochs] for name in dict.fromkeys(name for epoch in epochs for name in epoch)}


def _mean(values: list[float]) -> float | None:
    """None where no epoch was trained (epochs=0)."""
    return sum(values) / len(values) if values else None
