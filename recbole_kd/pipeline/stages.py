"""The stages of a distillation: teacher, student alone, distilled student. Each finished one is kept and not repeated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import get_model
from torch import nn

from recbole_kd.config.schema import KD_RUN_KEYS, TEACHER_RUN_KEYS
from recbole_kd.data.fingerprint import without_histories
from recbole_kd.data.histories.sequence_dataset import reads_histories, stage_parts, universe_of
from recbole_kd.data.item_features.configured import FEATURE_KEYS
from recbole_kd.data.sampled_candidates import samples_candidates
from recbole_kd.data.side_information import named_files
from recbole_kd.data.split_and_loaders import Splits
from recbole_kd.data.time_order import is_split_by_time
from recbole_kd.errors import KDError, LostProcessError, StorageError, TeacherError
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.storage.cache import CACHE_FORMAT, WORK, locked
from recbole_kd.storage.digests import file_digest, settings_digest
from recbole_kd.storage.files import FILES, WEIGHTS, check_written, save_weights, write_manifest, written_whole
from recbole_kd.storage.integrity import OWN_SHA256
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.places import user_path
from recbole_kd.storage.source_digest import own_source
from recbole_kd.storage.targets import check_folder
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.convert import write_dense, write_truncated
from recbole_kd.teacher.export import export_teacher
from recbole_kd.teacher.load import load_teacher
from recbole_kd.teacher.stores.ensemble import SeveralTeachers
from recbole_kd.training.resume_state import StateFile
from recbole_kd.training.training_job import CHECKPOINT, STATE, AfterEpoch, TrainingFiles, TrainingJob
from recbole_kd.training.trajectory import Trajectory

REPORT = "report.json"
STUDENT_FILES = (WEIGHTS, REPORT)
"""Files of a cached student; without a report they are made again."""
WITHOUT_EFFECT = frozenset(
    {
        "show_progress", "state", "gpu_id", "use_gpu", "device", "checkpoint_dir", "data_path", "log_wandb", "wandb_project",
        "eval_batch_size", "eval_memory_mb", "cache_dir", "output_dir", "resume", "allow_unknown", "config_file", "config_files",
        "nproc", "local_rank", "single_spec", "worker",
        "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path", "loss_decimal_place",
        "MODEL_TYPE", "MODEL_INPUT_TYPE", *TEACHER_RUN_KEYS,
    }
)  # fmt: skip
"""Keys that do not change what a training comes to; they are left out of its digest."""


IDENTITY = ("model", "settings", "store", "dtype", "svd", "trajectory", "teacher", "contents")
"""Keys of a teacher's manifest that say how it was made."""


@dataclass(frozen=True)
class RunContext:
    """What all stages of a run share: its data, its folders, whether it continues an interrupted one.

    Attributes:
        splits: the data. cache: folder of finished models. folder: of this run. resume: continue an interrupted training.
        ray_address: of a cluster whose workers make the blocks of a dense teacher store.
    """

    splits: Splits
    cache: Path
    folder: Path
    resume: bool
    ray_address: str | None = None


def settings_of(config: Any) -> dict[str, Any]:
    """The values of a Config that decide what a training comes to, as plain JSON values."""
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    unread = () if config["item_feature_digests"] else FEATURE_KEYS  # of a model that reads no item features
    unset = [] if config["max_minutes"] else ["max_minutes"]  # models that were kept before it counted are still the same
    if not (is_split_by_time(config) or issubclass(get_model(config["model"]), SequentialRecommender)):
        unset.append("time_order")
    return {
        key: value
        for key, value in config.final_config_dict.items()
        if key not in (*WITHOUT_EFFECT, *unset) and key not in unread and isinstance(value, plain)
    }


def settings_alone(config: Any) -> dict[str, Any]:
    """The settings of a model that is not distilled."""
    return {key: value for key, value in settings_of(config).items() if key not in ("kd", *KD_RUN_KEYS)}


def data_of(context: RunContext, name: str) -> dict[str, Any]:
    """What identifies the data for a model of this name: their order counts for a model of histories alone."""
    return dict(context.splits.fingerprint) if reads_histories(name) else without_histories(context.splits.fingerprint)


def entry_of(context: RunContext, kind: str, name: str, settings: Mapping[str, Any]) -> Path:
    made = {"format": CACHE_FORMAT, "settings": settings, "data": data_of(context, name)}
    if settings["eval_protocol"] == "paper" and issubclass(get_model(name), SequentialRecommender):
        made["test_histories"] = "training items"  # reports kept before this was so are not taken for its own
    beside: dict[str, Any] = {"source": own_source(get_model(name)), "columns": context.splits.side, "files": named_files(settings)}
    if context.splits.candidates is not None and samples_candidates(settings["eval_args"]):
        beside["candidates"] = asdict(context.splits.candidates)  # reports over other candidates are not taken for its own
    digest = settings_digest({**made, **{part: value for part, value in beside.items() if value}})
    return context.cache / kind / f"{context.splits.dataset.dataset_name}-{name}-{digest}"


@contextmanager
def workshop(entry: Path, replaces: Collection[str] = ()) -> Iterator[Path]:
    """The folder of what a training needs until it is finished. An interrupted one keeps it, for ``resume``; a failed one does not, and one
    that found the disk full keeps what it can be continued from.

    Raises:
        TargetError: before anything is trained: the entry is there and holds other files than ``replaces``.
    """
    check_folder(entry, own=lambda path: path.name in replaces)
    work = entry.with_name(entry.name + WORK)
    try:
        yield work
    except LostProcessError:
        raise
    except StorageError:
        if (work / STATE).is_file():
            (work / CHECKPOINT).unlink(missing_ok=True)  # it may be half written; the state has its own
        else:
            shutil.rmtree(work, ignore_errors=True)
        raise
    except KDError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)


def ensure_teacher(
    config: Any, context: RunContext, store: str = "auto", dtype: str = "fp32", n_checkpoints: int = 0
) -> tuple[TeacherScores, dict[str, Any]]:
    """The teacher's scores and figures: from the cache, or trained, exported and put there. With so many checkpoints of its training."""
    name = config["model"]
    settings = settings_alone(config)
    kept = {"trajectory": n_checkpoints} if n_checkpoints else {}
    entry = entry_of(context, "teacher", name, {**settings, "store": store, "dtype": dtype, **kept})
    with locked(entry):
        cached = entry.is_dir() or (store == "dense" and not kept and _from_factors(context, name, settings, entry, dtype))
        if not cached:
            getLogger().info(f"Training the teacher {name}, once: it is kept in {entry}")
            with workshop(entry) as work:
                trajectory = Trajectory(work / "trajectory", n_checkpoints) if n_checkpoints else None
                files = TrainingFiles.in_folder(work, context.folder / "tensorboard-teacher" / name)
                model, figures = TrainingJob(config, context.splits, files, context.resume, trajectory=trajectory).train()
                manifest = {
                    "model": name, "dataset": config["dataset"], "settings": settings, "data": data_of(context, name), "report": figures,
                }  # fmt: skip
                earlier: Iterable[int] = ()
                if trajectory is not None:
                    figures["trajectory"] = manifest["trajectory"] = trajectory.chosen()
                    earlier = trajectory.replay(model)
                rows = universe_of(stage_parts(config, context.splits.parts[:1])[0])
                export_teacher(Scorer(model, rows), entry, manifest, store, dtype, earlier, work, context.ray_address)
        teacher = load_teacher(entry, context.splits.parts[0], config["device"])
        check_asked(entry, teacher.manifest, {"model": name, "settings": settings, "dtype": dtype, "svd": None})
    teacher.check_data(context.splits.fingerprint)
    return teacher, {**teacher.manifest["report"], "cached": cached, "path": str(entry)}


def _ensure_truncated(config: Any, context: RunContext, store: str, dtype: str, width: int) -> tuple[TeacherScores, dict[str, Any]]:
    """The teacher's scores as factors of a smaller width: from the cache, or made of the whole ones and put there."""
    name = config["model"]
    entry = entry_of(context, "teacher", name, {**settings_alone(config), "store": store, "dtype": dtype, "svd": width})
    with locked(entry):
        trained = False
        if not entry.is_dir():  # where the cache has it, the whole one is not needed
            whole, figures = ensure_teacher(config, context, store)
            trained = not figures["cached"]
            getLogger().info(f"Truncating the scores of the teacher {name} to a width of {width}")
            write_truncated(whole, entry, width, dtype)
        teacher = load_teacher(entry, context.splits.parts[0], config["device"])
        check_asked(entry, teacher.manifest, {"model": name, "settings": settings_alone(config), "dtype": dtype, "svd": width})
    fidelity = teacher.manifest["fidelity"]
    getLogger().info(
        f"The teacher {name} at a width of {width} keeps {fidelity['top_k_overlap']:.4f} of its top {fidelity['k']} and "
        f"{fidelity['energy']:.4f} of its scores' squares"
    )
    return teacher, {**teacher.manifest["report"], "cached": not trained, "path": str(entry), "fidelity": fidelity}


def _from_factors(context: RunContext, name: str, settings: Mapping[str, Any], entry: Path, dtype: str) -> bool:
    """Make a dense store from the same teacher's exact factors, where the cache has them: True when it did."""
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
    configs: Sequence[Any], context: RunContext, store: str = "auto", dtype: str = "fp32", n_checkpoints: int = 0, svd: int | None = None
) -> tuple[TeacherScores, dict[str, Any]]:
    """One teacher or several, each a stage of its own. Figures of several are their sums; ``members`` has those of each.

    Args:
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
    together = {"valid": None, "test": None, **sums, "cached": all(figures["cached"] for figures in members), "members": members}
    return SeveralTeachers([teacher for teacher, _ in found]), together


def saved_teacher(path: str, splits: Splits, device: Any) -> tuple[TeacherScores, dict[str, Any]]:
    """A teacher that the user names by path, and what is known of it."""
    teacher = load_teacher(path, splits.parts[0], device)
    teacher.check_data(splits.fingerprint)
    if path.endswith(".pth") or not teacher.manifest.get("settings"):  # a checkpoint, or scores from outside: nothing says how it was made
        place = user_path(path, "teacher_path")
        teacher.manifest["contents"] = file_digest(*([place] if place.is_file() else sorted(place.glob("*.safetensors"))))
    unknown = {"valid": None, "test": None, "parameters": None, "bytes": None, "inference_us_per_user": None}
    return teacher, {**unknown, **teacher.manifest.get("report", {}), "cached": True, "path": str(path)}


def ensure_student_alone(config: Any, context: RunContext) -> dict[str, Any]:
    """Figures of the student trained alone: from the cache, or trained and put there."""
    name = config["model"]
    settings = settings_alone(config)
    asked = {"settings": settings, "data": data_of(context, name)}
    entry = entry_of(context, "student", name, settings)
    with locked(entry):
        report = _read_report(entry, asked)
        if report is not None:
            return {**report, "cached": True}
        getLogger().info(f"Training {name} alone, once: it is kept in {entry}")
        with workshop(entry, STUDENT_FILES) as work:
            files = TrainingFiles.in_folder(work, context.folder / "tensorboard-student")
            model, figures = TrainingJob(config, context.splits, files, context.resume).train()
            with written_whole(entry, replaces=STUDENT_FILES) as temporary:
                save_weights(temporary / WEIGHTS, model)
                write_manifest(temporary, {**figures, **asked}, REPORT)
    return {**figures, "cached": False}


def _read_report(entry: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    path = entry / REPORT
    if not path.is_file():
        return None
    try:
        report: dict[str, Any] = read_json(path)
        if not isinstance(report, dict):
            raise ValueError(f"a {type(report).__name__} in place of a mapping")
    except ValueError as error:
        raise TeacherError(f"{path} is damaged ({error}); delete the folder {entry}") from None
    if not {"valid", "test", "settings"} <= report.keys():
        raise TeacherError(f"{path} is damaged (it lacks figures); delete the folder {entry}")
    check_written(entry, report, REPORT, fix=" and run again")
    check_asked(entry, report, asked)
    return {key: value for key, value in report.items() if key not in (*asked, FILES, OWN_SHA256)}


def check_asked(entry: Path, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse a cached entry that was made with other settings than its name says.

    Args:
        made: its manifest or report; a key that an earlier version did not write is not compared.

    Raises:
        TeacherError: names the first setting that differs, with both values.
    """
    plain = json.loads(json.dumps(dict(asked), default=str))
    for key, wanted in plain.items():
        found = made.get(key, wanted)
        if found == wanted:
            continue
        words = f"{key}={found!r}, not {wanted!r}"
        if isinstance(found, dict) and isinstance(wanted, dict):
            name = next(name for name in (*wanted, *found) if found.get(name) != wanted.get(name))
            words = f"{name}={found.get(name)!r}, not {wanted.get(name)!r}"
        raise TeacherError(f"{entry} was not made for this run ({words[:200]}); delete the folder and run again")


def distill(
    config: Any, context: RunContext, teacher: TeacherScores, after_epoch: AfterEpoch | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Train the student under the teacher; its checkpoint stays in the run's folder. Return the model of the best epoch and its figures."""
    entry = entry_of(context, "distilled", config["model"], distilled_settings(config, teacher))
    state_file = entry.with_name(entry.name + ".pt")  # not with_suffix: the data set's name may have a dot
    files = TrainingFiles(context.folder / f"{config['model']}.pth", context.folder / "tensorboard", state_file)
    with locked(entry):
        try:
            model, figures = TrainingJob(config, context.splits, files, context.resume, teacher, after_epoch=after_epoch).train()
        except (LostProcessError, StorageError):
            raise
        except KDError:
            StateFile(state_file).remove()
            raise
        StateFile(state_file).remove()
    return model, figures


def distilled_settings(config: Any, teacher: TeacherScores) -> dict[str, Any]:
    """What decides what a distillation comes to."""
    return {**settings_of(config), "teacher": identity(teacher)}


def identity(teacher: TeacherScores) -> dict[str, Any]:
    """What a teacher's manifest says of how it was made; of a teacher of histories also the order of its data."""
    histories = [(member.manifest.get("data") or {}).get("histories") for member in teacher.members]
    made = {key: value for key, value in teacher.manifest.items() if key in IDENTITY}
    return {**made, "histories": histories} if any(histories) else made
