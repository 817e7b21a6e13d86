"""The stages of a distillation: teacher, student alone, distilled student. Each finished one is kept and not repeated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.utils import get_model, get_trainer, init_seed
from safetensors.torch import save_file
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from recbole_kd.analysis.ranks import rank_curve
from recbole_kd.build import build_distiller
from recbole_kd.cache import CACHE_FORMAT, locked
from recbole_kd.data.preparation import Loaders, Splits, evaluation_batch_size, make_loaders
from recbole_kd.errors import KDError, TeacherError, TrainingError
from recbole_kd.evaluation import RankingEvaluation
from recbole_kd.model.graph import accelerate
from recbole_kd.model.published import conversion_words, initialise
from recbole_kd.report import inference_us_per_user, peak_rss_mb, size_of
from recbole_kd.resume import TrainingState
from recbole_kd.scorer import Scorer
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.export import export_teacher
from recbole_kd.teacher.files import WEIGHTS, write_json, written_whole
from recbole_kd.teacher.fingerprint import settings_digest
from recbole_kd.teacher.load import load_teacher
from recbole_kd.teacher.several import SeveralTeachers
from recbole_kd.trainer import KDTrainer, without_recbole_scalars
from recbole_kd.trajectory import Trajectory

REPORT = "report.json"
WITHOUT_EFFECT = frozenset(
    {
        "show_progress", "state", "gpu_id", "use_gpu", "worker", "device", "checkpoint_dir", "data_path", "log_wandb", "wandb_project",
        "eval_batch_size", "eval_memory_mb", "cache_dir", "output_dir", "resume", "allow_unknown", "config_file", "config_files",
        "local_rank", "single_spec", "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path", "loss_decimal_place",
    }
)  # fmt: skip
"""Keys that do not change what a training comes to; they are left out of its digest."""


IDENTITY = ("model", "settings", "store", "dtype", "trajectory", "teacher")
"""Keys of a teacher's manifest that say how it was made."""


@dataclass
class Stage:
    """One training: where it happens and what it leaves.

    Attributes:
        splits: the data. cache: folder of finished models. folder: of this run. resume: continue an interrupted training.
    """

    splits: Splits
    cache: Path
    folder: Path
    resume: bool


def settings_of(config: Any) -> dict[str, Any]:
    """The values of a Config that decide what a training comes to, as plain JSON values."""
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    return {
        key: value
        for key, value in config.final_config_dict.items()
        if key not in WITHOUT_EFFECT and not key.startswith(("teacher_", "MODEL_")) and isinstance(value, plain)
    }


def _settings_alone(config: Any) -> dict[str, Any]:
    return {key: value for key, value in settings_of(config).items() if not key.startswith("kd")}


def _entry(stage: Stage, kind: str, name: str, settings: Mapping[str, Any]) -> Path:
    digest = settings_digest({"format": CACHE_FORMAT, "settings": settings, "data": stage.splits.fingerprint})
    return stage.cache / kind / f"{stage.splits.dataset.dataset_name}-{name}-{digest}"


# -- training ---------------------------------------------------------------------------------------------------------


def _prepare(config: Any, splits: Splits) -> tuple[nn.Module, Loaders]:
    """A fresh model and its loaders, seeded as RecBole's run_recbole does."""
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, splits.parts[0]).to(config["device"])
    accelerate(model)
    initialise(model, config["init_std"])
    getLogger().info(conversion_words(model, config))
    if "eval_batch_size" not in config.external_config_dict:
        config["eval_batch_size"] = evaluation_batch_size(model, splits.n_users, splits.n_items + 1, config["eval_memory_mb"])
    loaders = make_loaders(config, splits)
    return model, loaders


def _figures(trainer: Any, model: nn.Module, loaders: Loaders, config: Any) -> dict[str, Any]:
    """Validation and test metrics of the best epoch, size and speed."""
    has_weights = bool(list(model.parameters()))
    figures = {}
    for index, (name, data) in enumerate((("valid", loaders.valid), ("test", loaders.test))):
        best = has_weights and index == 0
        metrics = trainer.evaluate(data, load_best_model=best, show_progress=config["show_progress"])
        figures[name] = {key: float(value) for key, value in metrics.items()}
    return {**figures, **size_of(model), "inference_us_per_user": inference_us_per_user(Scorer(model))}


def _fit(trainer: Any, config: Any, loaders: Loaders, resume: bool, trajectory: Trajectory | None = None) -> None:
    resumed = resume and isinstance(trainer, KDTrainer) and trainer.resume(loaders.train)
    if resumed:
        getLogger().info(f"Continuing {config['model']} from epoch {trainer.start_epoch}")
    if trajectory is not None:
        trajectory.follow(trainer, resumed)
    callback = None if trajectory is None else trajectory.after_epoch
    try:
        trainer.fit(loaders.train, loaders.valid, saved=True, show_progress=config["show_progress"], callback_fn=callback)
    except ValueError as error:  # RecBole's own trainers say no more than this
        if str(error) != "Training loss is nan":
            raise
        raise TrainingError(
            f"The loss of {config['model']} is nan: lower learning_rate, or set clip_grad_norm={{'max_norm': 1.0}}"
        ) from error


@contextmanager
def _workshop(entry: Path) -> Iterator[Path]:
    """The folder of what a training needs until it is finished. An interrupted one keeps it, for ``resume``; a failed one does not."""
    work = entry.with_name(entry.name + ".work")
    try:
        yield work
    except KDError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)


def _train_alone(
    config: Any, stage: Stage, work: Path, scalars: Path, trajectory: Trajectory | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a model without distillation; ``work`` holds its checkpoint and last-epoch state until it is finished."""
    model, loaders = _prepare(config, stage.splits)
    kind = get_trainer(config["MODEL_TYPE"], config["model"])
    config["checkpoint_dir"] = str(work)
    if kind.__name__ == "Trainer":
        trainer: Any = KDTrainer(config, model, checkpoint=work / "best.pth", scalars=scalars, state_file=work / "state.pt")
    else:
        with without_recbole_scalars():
            trainer = type(kind.__name__, (RankingEvaluation, kind), {})(config, model)
            trainer.tensorboard.close()
        trainer.tensorboard = SummaryWriter(str(scalars))
    _fit(trainer, config, loaders, stage.resume, trajectory)
    figures = _figures(trainer, model, loaders, config)
    if isinstance(trainer, KDTrainer):
        figures.update(epochs=len(trainer.epoch_seconds), best_epoch=trainer.best_epoch)
    return model, figures


# -- stages -----------------------------------------------------------------------------------------------------------


def ensure_teacher(
    config: Any, stage: Stage, store: str = "auto", dtype: str = "fp32", n_checkpoints: int = 0
) -> tuple[TeacherScores, dict[str, Any]]:
    """The teacher's scores and figures: from the cache, or trained, exported and put there. With so many checkpoints of its training."""
    name = config["model"]
    settings = _settings_alone(config)
    kept = {"trajectory": n_checkpoints} if n_checkpoints else {}
    entry = _entry(stage, "teacher", name, {**settings, "store": store, "dtype": dtype, **kept})
    with locked(entry):
        cached = entry.is_dir()
        if not cached:
            getLogger().info(f"Training the teacher {name}, once: it is kept in {entry}")
            with _workshop(entry) as work:
                trajectory = Trajectory(work / "trajectory", n_checkpoints) if n_checkpoints else None
                model, figures = _train_alone(config, stage, work, stage.folder / "tensorboard-teacher" / name, trajectory)
                manifest = {
                    "model": name, "dataset": config["dataset"], "settings": settings, "data": stage.splits.fingerprint, "report": figures,
                }  # fmt: skip
                earlier: Iterable[int] = ()
                if trajectory is not None:
                    figures["trajectory"] = manifest["trajectory"] = trajectory.chosen()
                    earlier = trajectory.replay(model)
                export_teacher(Scorer(model), entry, manifest, store, dtype, earlier)
        teacher = load_teacher(entry, stage.splits.parts[0], config["device"])
    teacher.check_data(stage.splits.fingerprint)
    return teacher, {**teacher.manifest["report"], "cached": cached, "path": str(entry)}


def ensure_teachers(
    configs: Sequence[Any], stage: Stage, store: str = "auto", dtype: str = "fp32", n_checkpoints: int = 0
) -> tuple[TeacherScores, dict[str, Any]]:
    """One teacher or several, each a stage of its own. Figures of several are their sums; ``members`` has those of each."""
    found = [ensure_teacher(config, stage, store, dtype, n_checkpoints) for config in configs]
    if len(found) == 1:
        return found[0]
    members = [{"model": teacher.name, **figures} for teacher, figures in found]
    sums = {key: sum(figures[key] for figures in members) for key in ("parameters", "bytes", "inference_us_per_user")}
    together = {"valid": None, "test": None, **sums, "cached": all(figures["cached"] for figures in members), "members": members}
    return SeveralTeachers([teacher for teacher, _ in found]), together


def saved_teacher(path: str, splits: Splits, device: Any) -> tuple[TeacherScores, dict[str, Any]]:
    """A teacher that the user names by path, and what is known of it."""
    teacher = load_teacher(path, splits.parts[0], device)
    teacher.check_data(splits.fingerprint)
    unknown = {"valid": None, "test": None, "parameters": 0, "bytes": 0, "inference_us_per_user": None}
    return teacher, {**unknown, **teacher.manifest.get("report", {}), "cached": True, "path": str(path)}


def ensure_student_alone(config: Any, stage: Stage) -> dict[str, Any]:
    """Figures of the student trained alone: from the cache, or trained and put there."""
    name = config["model"]
    settings = _settings_alone(config)
    entry = _entry(stage, "student", name, settings)
    with locked(entry):
        report = _read_report(entry)
        if report is not None:
            return {**report, "cached": True}
        getLogger().info(f"Training {name} alone, once: it is kept in {entry}")
        with _workshop(entry) as work:
            model, figures = _train_alone(config, stage, work, stage.folder / "tensorboard-student")
            with written_whole(entry) as temporary:
                save_file({k: v.contiguous().cpu() for k, v in model.state_dict().items()}, temporary / WEIGHTS)
                write_json(temporary / REPORT, {**figures, "settings": settings})
    return {**figures, "cached": False}


def _read_report(entry: Path) -> dict[str, Any] | None:
    path = entry / REPORT
    if not path.is_file():
        return None
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TeacherError(f"{path} is damaged ({error}); delete the folder {entry}") from None
    report.pop("settings", None)
    return report


def distill(config: Any, stage: Stage, teacher: TeacherScores) -> dict[str, Any]:
    """Train the student under the teacher; its checkpoint stays in the run's folder."""
    entry = _entry(stage, "distilled", config["model"], distilled_settings(config, teacher))
    state_file = entry.with_name(entry.name + ".pt")  # not with_suffix: the data set's name may have a dot
    files = {"checkpoint": stage.folder / f"{config['model']}.pth", "scalars": stage.folder / "tensorboard", "state_file": state_file}
    with locked(entry):
        try:
            _, figures = train_distilled(config, stage, teacher, **files)
        except KDError:
            TrainingState(state_file).remove()
            raise
        TrainingState(state_file).remove()
    return figures


def distilled_settings(config: Any, teacher: TeacherScores) -> dict[str, Any]:
    """What decides what a distillation comes to."""
    return {**settings_of(config), "teacher": identity(teacher)}


def identity(teacher: TeacherScores) -> dict[str, Any]:
    """What a teacher's manifest says of how it was made."""
    return {key: value for key, value in teacher.manifest.items() if key in IDENTITY}


def train_distilled(
    config: Any, stage: Stage, teacher: TeacherScores, *, checkpoint: Path, scalars: Path, state_file: Path
) -> tuple[nn.Module, dict[str, Any]]:
    """A model trained under a teacher, and its figures. The state file stays: it is the caller's to remove."""
    model, loaders = _prepare(config, stage.splits)
    distiller = build_distiller(config, model, teacher)
    trainer = KDTrainer(
        config, model, distiller, checkpoint=checkpoint, scalars=scalars, state_file=state_file, track=config["kd_track"] or ()
    )
    curves = _RankCurves(model, teacher, "teacher_ranks" in trainer.track)
    _fit(trainer, config, loaders, stage.resume)
    figures = {**_figures(trainer, model, loaders, config), **curves.after_training()}
    seconds, kd_seconds = trainer.epoch_seconds, trainer.kd_seconds
    return model, {
        **figures,
        "epochs": len(seconds),
        "best_epoch": trainer.best_epoch,
        "kd_loss": trainer.kd_loss,
        "seconds_per_epoch": _mean(seconds),
        "kd_seconds_per_epoch": _mean(kd_seconds),
        "peak_rss_mb": peak_rss_mb(),
        "history": {name: [epoch.get(name) for epoch in trainer.history] for name in (trainer.history[0] if trainer.history else ())},
    }


class _RankCurves:
    """The student's mean rank of the teacher's k-th item, k = 1..50, before and after its training."""

    def __init__(self, model: nn.Module, teacher: TeacherScores, wanted: bool) -> None:
        self.scorer, self.start = Scorer(model), None
        if wanted:
            queries = torch.arange(teacher.n_queries, device=self.scorer.device)
            self.lists = teacher.top_k(queries, min(50, teacher.n_items - 1))[0]
            self.start = rank_curve(self.scorer, self.lists)

    def after_training(self) -> dict[str, Any]:
        return {} if self.start is None else {"teacher_ranks": {"start": self.start, "end": rank_curve(self.scorer, self.lists)}}


def _mean(values: list[float]) -> float | None:
    """None where no epoch was trained (epochs=0)."""
    return sum(values) / len(values) if values else None
