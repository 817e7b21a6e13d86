"""The stages of a distillation: teacher, student without teacher, distilled student.

Finished stages are cached and not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import get_model
from torch import nn

from recbole_kd.config.schema import AUTO_WEIGHT
from recbole_kd.data.histories.sequence_dataset import stage_parts, universe_of
from recbole_kd.data.split_and_loaders import Splits
from recbole_kd.errors import KDError, LostProcessError, StorageError, TeacherError
from recbole_kd.pipeline.kept_weights import keep_weights, read_kept, replay, restore
from recbole_kd.pipeline.revisions import revisions_of
from recbole_kd.pipeline.stage_words import named, outcome
from recbole_kd.pipeline.training_entries import (
    RunContext,
    check_asked,
    data_of,
    distilled_settings,
    entry_of,
    settings_alone,
    workshop,
)
from recbole_kd.pipeline.weight_search import Prospect, train_with_chosen_weight
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.scoring.vector_models import has_vectors
from recbole_kd.storage.cache import locked
from recbole_kd.storage.digests import file_digest
from recbole_kd.storage.files import FILES, WEIGHTS, check_written, save_weights, write_manifest, written_whole
from recbole_kd.storage.integrity import OWN_SHA256
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.places import user_path
from recbole_kd.storage.screen_log import show
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.convert import write_dense, write_truncated
from recbole_kd.teacher.export import export_teacher, resolve_store
from recbole_kd.teacher.load import load_teacher
from recbole_kd.teacher.stores.ensemble import SeveralTeachers
from recbole_kd.teacher.stores.lists import treat_unlisted
from recbole_kd.training.resume_state import StateFile
from recbole_kd.training.training_job import AfterEpoch, TrainingFiles, TrainingJob
from recbole_kd.training.trajectory import Trajectory

REPORT = "report.json"
STUDENT_FILES = (WEIGHTS, REPORT)
"""Files of a cached student. Without a report they are made again."""


def ensure_teacher(
    config: Any, context: RunContext, store: str = "auto", dtype: str = "fp32", n_checkpoints: int = 0
) -> tuple[TeacherScores, dict[str, Any]]:
    """Return a teacher's scores and metrics, from the cache or newly made.

    New scores are exported from cached weights if there are any, else from a new training.

    Args:
        config: the teacher's Config.
        context: the run.
        store, dtype: of the export.
        n_checkpoints: number of checkpoints of its training to export with it.
    """
    name = config["model"]
    context.progress.begin(f"Teacher {named(config)}")
    kept = {"trajectory": n_checkpoints} if n_checkpoints else {}
    settings = settings_alone(config)
    entry = _export_entry(context, name, {**settings, **kept}, store, dtype)
    weights = entry_of(context, "trained", name, {**settings, **kept})
    asked = {"model": name, "settings": settings, "data": data_of(context, name)}
    with locked(entry):
        trained = False
        if not entry.is_dir():
            with locked(weights):
                made = _from_weights(config, context, weights, entry, store, dtype, asked)
                made = made or (store == "dense" and not kept and _from_factors(context, name, settings, entry, dtype))
                if not made:
                    trained = True
                    _train_teacher(config, context, weights, entry, store, dtype, n_checkpoints, asked)
        teacher = load_teacher(entry, context.splits.parts[0], config["device"])
        stored = {} if store == "auto" else {"store": store}
        check_asked(
            entry, teacher.manifest, {"model": name, "settings": settings, "dtype": dtype, "svd": None, **stored}
        )
    teacher.check_data(context.splits.fingerprint)
    figures = teacher.manifest["report"]
    context.progress.end(outcome(figures, config["valid_metric"], str(entry), not trained))
    return teacher, {**figures, "cached": not trained, "path": str(entry)}


def _export_entry(context: RunContext, name: str, settings: Mapping[str, Any], store: str, dtype: str) -> Path:
    """Return the entry of a teacher's scores; ``auto`` shares that of the store it chooses."""
    kind = get_model(name)
    usual = resolve_store("auto", has_vectors(kind), issubclass(kind, SequentialRecommender))
    spellings = ("auto", usual) if store in ("auto", usual) else (store,)
    entries = [entry_of(context, "teacher", name, {**settings, "store": word, "dtype": dtype}) for word in spellings]
    return next((entry for entry in entries if entry.is_dir()), entries[0])


def _train_teacher(
    config: Any,
    context: RunContext,
    weights: Path,
    entry: Path,
    store: str,
    dtype: str,
    n_checkpoints: int,
    asked: Mapping[str, Any],
) -> None:
    """Train a teacher, export its scores and cache its weights.

    ``asked`` was computed before, because a training writes into its Config.
    """
    name = config["model"]
    getLogger().info(f"Training the teacher {name} once, into the cache entry {entry}")
    with workshop(entry) as work:
        trajectory = Trajectory(work / "trajectory", n_checkpoints) if n_checkpoints else None
        files = TrainingFiles.in_folder(work, context.folder / "tensorboard-teacher" / name)
        job = TrainingJob(
            config, context.splits, files, context.resume, trajectory=trajectory, progress=context.progress
        )
        model, figures = job.train()
        revisions = revisions_of(type(model))
        manifest = {
            "model": name, "dataset": config["dataset"], "settings": asked["settings"], "data": asked["data"],
            "report": figures, **({"revisions": revisions} if revisions else {}),
        }  # fmt: skip
        if trajectory is not None:
            figures["trajectory"] = manifest["trajectory"] = trajectory.chosen()
        scorer = _scorer_of(config, context, model)
        earlier = [() if trajectory is None else trajectory.replay(model) for _ in range(2)]
        if not weights.is_dir():  # before the scores: a finished entry is not opened again, so nothing would keep them
            keep_weights(weights, scorer, manifest, earlier[0])
        export_teacher(scorer, entry, manifest, store, dtype, earlier[1], work, context.ray_address)


def _scorer_of(config: Any, context: RunContext, model: Any) -> Scorer:
    return Scorer(model, universe_of(stage_parts(config, context.splits.parts[:1])[0]))


def _from_weights(
    config: Any, context: RunContext, weights: Path, entry: Path, store: str, dtype: str, asked: Mapping[str, Any]
) -> bool:
    """Export the scores from the teacher's cached weights, if any; return whether it was done."""
    if not weights.is_dir():
        return False
    manifest = read_kept(weights, asked)
    with workshop(entry) as work:
        job = TrainingJob(config, context.splits, TrainingFiles.in_folder(work, context.folder))
        scorer = _scorer_of(config, context, job.model_and_loaders()[0])
        if not restore(weights, scorer):
            return False
        getLogger().info(f"Exporting the scores of the teacher {config['model']} from its weights in {weights}")
        earlier = replay(weights, scorer.model, manifest.get("trajectory", [])[:-1])
        content = {key: value for key, value in manifest.items() if key not in (FILES, OWN_SHA256)}
        export_teacher(scorer, entry, content, store, dtype, earlier, work, context.ray_address)
    return True


def _ensure_truncated(
    config: Any, context: RunContext, store: str, dtype: str, width: int
) -> tuple[TeacherScores, dict[str, Any]]:
    """Return a teacher's scores as factors of a smaller width, cached or newly truncated."""
    name = config["model"]
    settings = settings_alone(config)
    entry = entry_of(context, "teacher", name, {**settings, "store": store, "dtype": dtype, "svd": width})
    with locked(entry):
        begun = trained = False
        if not entry.is_dir():  # if it is cached, the full scores are not needed
            whole, figures = ensure_teacher(config, context, store)
            begun, trained = True, not figures["cached"]
            getLogger().info(f"Truncating the scores of the teacher {name} to a width of {width}")
            write_truncated(whole, entry, width, dtype)
        teacher = load_teacher(entry, context.splits.parts[0], config["device"])
        check_asked(entry, teacher.manifest, {"model": name, "settings": settings, "dtype": dtype, "svd": width})
    if not begun:
        context.progress.begin(f"Teacher {named(config)}")
        context.progress.end(outcome(teacher.manifest["report"], config["valid_metric"], str(entry), cached=True))
    fidelity = teacher.manifest["fidelity"]
    show(
        f"      the teacher {name} at a width of {width} keeps {fidelity['top_k_overlap']:.4f} of its top "
        f"{fidelity['k']} and {fidelity['energy']:.4f} of its scores' squares"
    )
    return teacher, {**teacher.manifest["report"], "cached": not trained, "path": str(entry), "fidelity": fidelity}


def _from_factors(context: RunContext, name: str, settings: Mapping[str, Any], entry: Path, dtype: str) -> bool:
    """Make a dense store from exact cached factors, if any; return whether it was done."""
    for store in ("auto", "factors"):
        source = entry_of(context, "teacher", name, {**settings, "store": store, "dtype": "fp32"})
        if source.is_dir():
            teacher = load_teacher(source, context.splits.parts[0])
            if teacher.store == "factors":
                getLogger().info(f"Writing the scores of the teacher {name} from its factors in {source}")
                write_dense(teacher, entry, dtype, context.ray_address)
                return True
    return False


def ensure_teachers(
    configs: Sequence[Any],
    context: RunContext,
    store: str = "auto",
    dtype: str = "fp32",
    n_checkpoints: int = 0,
    svd: int | None = None,
) -> tuple[TeacherScores, dict[str, Any]]:
    """Return one teacher or an ensemble, each teacher a separate stage.

    The metrics of an ensemble are sums, and ``members`` has those of each teacher.

    Args:
        configs: Configs of the teachers.
        context: the run.
        store, dtype, n_checkpoints: see :func:`ensure_teacher`.
        svd: truncate their scores to factors of this width.
    """
    if svd is None:
        found = [ensure_teacher(config, context, store, dtype, n_checkpoints) for config in configs]
    else:
        found = [_ensure_truncated(config, context, store, dtype, svd) for config in configs]
    if len(found) == 1:
        return found[0]
    members = [{"model": teacher.name, **figures} for teacher, figures in found]
    sums = {key: sum(figures[key] for figures in members) for key in ("parameters", "bytes", "inference_us_per_user")}
    together = {
        "valid": None,
        "test": None,
        **sums,
        "cached": all(figures["cached"] for figures in members),
        "members": members,
    }
    return SeveralTeachers([teacher for teacher, _ in found]), together


def saved_teacher(
    path: str, splits: Splits, device: Any, unlisted: str | None = None
) -> tuple[TeacherScores, dict[str, Any]]:
    """Return a teacher that the user names by path, and its known metrics."""
    teacher = load_teacher(path, splits.parts[0], device)
    teacher.check_data(splits.fingerprint)
    treat_unlisted(teacher, unlisted)
    # A checkpoint or external scores have no settings that identify them.
    if path.endswith(".pth") or not teacher.manifest.get("settings"):
        place = user_path(path, "teacher_path")
        teacher.manifest["contents"] = file_digest(
            *([place] if place.is_file() else sorted(place.glob("*.safetensors")))
        )
    unknown = {"valid": None, "test": None, "parameters": None, "bytes": None, "inference_us_per_user": None}
    return teacher, {**unknown, **teacher.manifest.get("report", {}), "cached": True, "path": str(path)}


def ensure_student_alone(config: Any, context: RunContext) -> dict[str, Any]:
    """Return the metrics of the student without a teacher, from the cache or newly trained."""
    name = config["model"]
    settings = settings_alone(config)
    asked = {"settings": settings, "data": data_of(context, name)}
    entry = entry_of(context, "student", name, settings)
    context.progress.begin(f"{named(config)} alone")
    with locked(entry):
        report = _read_report(entry, asked)
        if report is not None:
            context.progress.end(outcome(report, config["valid_metric"], str(entry), cached=True))
            return {**report, "cached": True}
        getLogger().info(f"Training {name} without a teacher once, into the cache entry {entry}")
        with workshop(entry, STUDENT_FILES) as work:
            files = TrainingFiles.in_folder(work, context.folder / "tensorboard-student")
            job = TrainingJob(
                config, context.splits, files, context.resume, progress=context.progress, start=context.start
            )
            model, figures = job.train()
            with written_whole(entry, replaces=STUDENT_FILES) as temporary:
                save_weights(temporary / WEIGHTS, model)
                write_manifest(temporary, {**figures, **asked}, REPORT)
    context.progress.end(outcome(figures, config["valid_metric"], str(entry), cached=False))
    return {**figures, "cached": False}


def _read_report(entry: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    path = entry / REPORT
    if not path.is_file():
        return None
    try:
        report: dict[str, Any] = read_json(path)
        if not isinstance(report, dict):
            raise ValueError(f"a {type(report).__name__} instead of a mapping")
    except ValueError as error:
        raise TeacherError(f"{path} is damaged ({error}); delete the folder {entry}") from None
    if not {"valid", "test", "settings"} <= report.keys():
        raise TeacherError(f"{path} is damaged (it lacks metrics); delete the folder {entry}")
    check_written(entry, report, REPORT, fix=" and run again")
    check_asked(entry, report, asked)
    return {key: value for key, value in report.items() if key not in (*asked, FILES, OWN_SHA256)}


def distill(
    config: Any,
    context: RunContext,
    teacher: TeacherScores,
    after_epoch: AfterEpoch | None = None,
    *,
    prospect: Prospect | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train the student under the teacher and return the best model with its metrics.

    Its checkpoint stays in the run's folder. With ``kd_weight=auto`` the metrics have ``kd_weight_search``, and the
    Config has the chosen weight afterwards; ``prospect`` is what is known of it before.
    """
    entry = entry_of(context, "distilled", config["model"], distilled_settings(config, teacher))
    state_file = entry.with_name(entry.name + ".pt")  # not with_suffix, because the data set's name may have a dot
    files = TrainingFiles(context.folder / f"{config['model']}.pth", context.folder / "tensorboard", state_file)
    context.progress.begin(f"{named(config)} + {config['kd']}")
    job = TrainingJob(
        config,
        context.splits,
        files,
        context.resume,
        teacher,
        after_epoch=after_epoch,
        progress=context.progress,
        start=context.start,
    )
    with locked(entry):
        trained = None
        if config["kd_weight"] == AUTO_WEIGHT:
            trained = train_with_chosen_weight(job, context, teacher, entry, prospect or Prospect())
        model, figures = trained or _without_leftovers(job)
    context.progress.end(outcome(figures, config["valid_metric"], str(context.folder), cached=False))
    return model, figures


def _without_leftovers(job: TrainingJob) -> tuple[nn.Module, dict[str, Any]]:
    """Train, and remove the state unless the training can be resumed."""
    state = StateFile(job.files.state)
    try:
        trained = job.train()
    except (LostProcessError, StorageError):
        raise
    except KDError:
        state.remove()
        raise
    state.remove()
    return trained
