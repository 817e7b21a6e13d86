"""Cache entries of trainings: their identity, and the folder in which one is made."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recbole.model.abstract_recommender import KnowledgeRecommender, SequentialRecommender
from recbole.utils import get_model

from recbole_kd.config.schema import KD_RUN_KEYS, TEACHER_RUN_KEYS
from recbole_kd.data.fingerprint_comparison import without_histories
from recbole_kd.data.histories.sequence_dataset import reads_histories
from recbole_kd.data.item_features.configured import FEATURE_KEYS
from recbole_kd.data.knowledge_graph import graph_digest
from recbole_kd.data.sampled_candidates import samples_candidates
from recbole_kd.data.side_information import named_files
from recbole_kd.data.split_and_loaders import Splits
from recbole_kd.data.time_order import is_split_by_time
from recbole_kd.errors import KDError, LostProcessError, StorageError, TeacherError
from recbole_kd.pipeline.revisions import revisions_of
from recbole_kd.storage.cache import CACHE_FORMAT, WORK, remove_folder
from recbole_kd.storage.digests import settings_digest
from recbole_kd.storage.source_digest import own_source
from recbole_kd.storage.targets import check_file, check_folder
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.training.progress import SILENT, Progress
from recbole_kd.training.training_job import CHECKPOINT, STATE, StartingWeights

WITHOUT_EFFECT = frozenset(
    {
        "show_progress", "state", "gpu_id", "use_gpu", "device", "checkpoint_dir", "data_path", "log_wandb",
        "wandb_project", "eval_batch_size", "eval_memory_mb", "cache_dir", "output_dir", "resume", "allow_unknown",
        "config_file", "config_files", "nproc", "ray_address", "download", "local_rank", "single_spec", "worker",
        "init_from", "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path",
        "loss_decimal_place", "MODEL_TYPE", "MODEL_INPUT_TYPE", *TEACHER_RUN_KEYS,
    }
)  # fmt: skip
"""Keys that do not affect the result of a training. They are left out of its digest."""

IDENTITY = ("model", "settings", "store", "dtype", "svd", "trajectory", "teacher", "contents", "revisions", "unlisted")
"""Keys of a teacher's manifest that identify how it was made."""


@dataclass(frozen=True)
class RunContext:
    """The common context of all stages of a run.

    Attributes:
        splits: the data.
        cache: folder of finished models.
        folder: folder of this run.
        resume: continue an interrupted training.
        ray_address: address of a cluster whose workers compute the blocks of a dense teacher store.
        progress: shows the stages and their epochs.
        start: first weights of the student, alone and distilled; None leaves the model's own.
    """

    splits: Splits
    cache: Path
    folder: Path
    resume: bool
    ray_address: str | None = None
    progress: Progress = SILENT
    start: StartingWeights | None = None


def settings_of(config: Any) -> dict[str, Any]:
    """Return the values of a Config that affect a training's result, as plain JSON values."""
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    unread = () if config["item_feature_digests"] else FEATURE_KEYS  # the model reads no item features
    # Keys that are not set are left out, so that models cached before the keys existed are still found.
    unset = [key for key in ("max_minutes", "train_by_user") if not config[key]]
    if config["kd_weight_scale"] in (None, "published"):
        unset.append("kd_weight_scale")
    if not (is_split_by_time(config) or issubclass(get_model(config["model"]), SequentialRecommender)):
        unset.append("time_order")
    return {
        key: value
        for key, value in config.final_config_dict.items()
        if key not in (*WITHOUT_EFFECT, *unset) and key not in unread and isinstance(value, plain)
    }


def settings_alone(config: Any) -> dict[str, Any]:
    """Return the settings of a model that is not distilled."""
    return {key: value for key, value in settings_of(config).items() if key not in ("kd", *KD_RUN_KEYS)}


def data_of(context: RunContext, name: str) -> dict[str, Any]:
    """Return the identity of a model's data; order matters only for a sequential model."""
    return dict(context.splits.fingerprint) if reads_histories(name) else without_histories(context.splits.fingerprint)


def entry_of(context: RunContext, kind: str, name: str, settings: Mapping[str, Any]) -> Path:
    """Return the folder of a cache entry.

    Args:
        context: the run.
        kind: a folder of the cache.
        name: name of the model.
        settings: everything that affects the entry's content. Data, sources and revisions of the code are added.
    """
    made: dict[str, Any] = {"format": CACHE_FORMAT, "settings": settings, "data": data_of(context, name)}
    if settings["eval_protocol"] == "paper" and issubclass(get_model(name), SequentialRecommender):
        made["test_histories"] = "training items"  # reports from before this rule are not reused
    beside: dict[str, Any] = {
        "source": own_source(get_model(name)),
        "columns": context.splits.side,
        "files": named_files(settings),
    }
    beside["revisions"] = revisions_of(get_model(name))
    if issubclass(get_model(name), KnowledgeRecommender):
        beside["graph"] = graph_digest(context.splits.dataset)
    if context.splits.candidates is not None and samples_candidates(settings["eval_args"]):
        # Reports on other candidates are not reused.
        beside["candidates"] = asdict(context.splits.candidates)
    digest = settings_digest({**made, **{part: value for part, value in beside.items() if value}})
    return context.cache / kind / f"{context.splits.dataset.dataset_name}-{name}-{digest}"


@contextmanager
def workshop(entry: Path, replaces: Collection[str] = ()) -> Iterator[Path]:
    """Yield the work folder of a training, which exists until the training is finished.

    An interrupted training keeps it, for ``resume``. A failed training removes it. After a full disk only the files
    stay from which the training can be resumed.

    Raises:
        TargetError: before anything is trained, if the entry exists and holds other files than ``replaces``, or if the
            work folder of an interrupted training holds a link or a pipe.
    """
    check_folder(entry, own=lambda path: path.name in replaces)
    work = entry.with_name(entry.name + WORK)
    for path in work.iterdir() if work.is_dir() else ():
        if path.is_symlink() or not path.is_dir():
            check_file(path, own=lambda _: True)
    try:
        yield work
    except LostProcessError:
        raise
    except StorageError:
        if (work / STATE).is_file():
            (work / CHECKPOINT).unlink(missing_ok=True)  # it may be incomplete; the state has its own copy
        else:
            remove_folder(work)
        raise
    except KDError:
        remove_folder(work)
        raise
    remove_folder(work)


def check_asked(entry: Path, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse a cached entry that was made with other settings than this run's.

    Args:
        entry: the entry.
        made: its manifest or report. A key that an earlier version did not write is not compared.
        asked: this run's values.

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


def distilled_settings(config: Any, teacher: TeacherScores) -> dict[str, Any]:
    """Return the values that affect the result of a distillation."""
    return {**settings_of(config), "teacher": identity(teacher)}


def identity(teacher: TeacherScores) -> dict[str, Any]:
    """Return the part of a teacher's manifest that identifies it.

    For a teacher that reads histories this includes the order of its data.
    """
    histories = [(member.manifest.get("data") or {}).get("histories") for member in teacher.members]
    made = {key: value for key, value in teacher.manifest.items() if key in IDENTITY}
    return {**made, "histories": histories} if any(histories) else made
