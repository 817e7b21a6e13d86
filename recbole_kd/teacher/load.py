"""Loading of a teacher from the folder of a run or from a RecBole checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.model.abstract_recommender import ContextRecommender, KnowledgeRecommender
from recbole.utils import get_model
from recbole.utils.argument_list import dataset_arguments

from recbole_kd.config.argument_kinds import DATA, DEVICE, PATH, takes
from recbole_kd.data.histories.recbole_rows import is_recboles
from recbole_kd.data.histories.sequence_dataset import reads_histories, stage_parts, universe_of
from recbole_kd.data.recbole_split import fingerprint_of, ordered_part
from recbole_kd.data.split_seed import split_seed
from recbole_kd.data.time_order import is_split_by_time, time_order
from recbole_kd.errors import TeacherError
from recbole_kd.integration.recbole_config import make_config
from recbole_kd.integration.safe_load import load_checkpoint
from recbole_kd.model.build_model import fresh_model
from recbole_kd.model.size import size_of
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.storage.files import SCORES, WEIGHTS, of_epoch, read_manifest, read_tensors
from recbole_kd.storage.places import user_path
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.export import scores_from
from recbole_kd.teacher.external import teacher_from_file, teacher_from_vectors
from recbole_kd.teacher.modalities import modalities_of, read_modalities
from recbole_kd.teacher.ranked_lists import about_of, exported_lists, is_export
from recbole_kd.teacher.stores.factors import FactorScores
from recbole_kd.teacher.stores.lists import ListScores
from recbole_kd.teacher.stores.online import OnlineScores
from recbole_kd.teacher.stores.remapped import N_USERS
from recbole_kd.teacher.tables import SUFFIXES
from recbole_kd.teacher.vector_files import VECTOR_SUFFIXES, read_vectors

HISTORY_ARGUMENTS = ("MAX_ITEM_LIST_LENGTH", "ITEM_LIST_LENGTH_FIELD", "LIST_SUFFIX", "POSITION_FIELD")
"""Keys of RecBole's data that affect only how a model sees a history, not ids or split. They may differ."""


@takes(path=PATH, dataset=DATA, device=DEVICE)
def load_teacher(path: str | Path, dataset: Any, device: torch.device | str = "cpu") -> TeacherScores:
    """Load a teacher's scores and check that they belong to this data.

    Args:
        path: a teacher folder (manifest.json, scores.safetensors), a RecBole checkpoint ``*.pth``, ranked lists of
            ``recbole-kd export-lists``, a table of lists (csv, tsv, Parquet, JSON lines) with the usual column
            names, or vectors with their ids in one ``.npz``. Reading any of them executes no code.
        dataset: RecBole's training loader (checks the split too), its training data set, or the data set before the
            split. An online teacher and a checkpoint rebuild the model with graph and histories, and need the training
            part.
        device: device of an online teacher.

    Returns:
        the frozen scores, with the earlier checkpoints and modalities that the folder holds.

    Raises:
        TeacherError: missing, damaged, unsafe, or made on other data. The message is one sentence with the fix.
        ArgumentError: an argument of another kind, such as no data.

    Examples:
        >>> data = recbole_kd.prepare_data(config)  # RecBole's Config of the student
        >>> teacher = recbole_kd.load_teacher(teacher_path, data.train)
        >>> teacher.name, teacher.n_items
        ('LightGCN', 41)
        >>> teacher.at(torch.tensor([1]), torch.tensor([[2, 3]])).shape
        torch.Size([1, 2])
    """
    path = user_path(path, "teacher_path")
    if path.suffix == ".pth":
        return _from_checkpoint(path, dataset, device)
    if path.suffix in SUFFIXES and not path.is_dir():
        return teacher_from_file(path, dataset)
    if path.suffix in VECTOR_SUFFIXES and path.is_file():
        return _from_vector_file(path, dataset)
    if is_export(path):
        lists = exported_lists(path)
        check_data(lists.manifest, dataset)
        return lists
    manifest = read_manifest(path)
    check_data(manifest, dataset)
    scores = _read(path, manifest, dataset, device)
    scores.modalities = read_modalities(path)
    epochs = manifest.get("trajectory")
    if epochs is not None:
        scores.earlier = partial(_read_all, path.absolute(), manifest, dataset, device, epochs[:-1])
    return scores


def _from_vector_file(path: Path, dataset: Any) -> TeacherScores:
    """Return the teacher of a file with vectors of users and items and their ids (TeacherError)."""
    again, ids = "and give DIR as --teacher_path", "--user_ids=FILE --item_ids=FILE --dataset=NAME --out=DIR"
    if path.suffix == ".npy":
        raise TeacherError(
            f"{path} holds one matrix, and a teacher has vectors of users and of items: run `recbole-kd import-teacher "
            f"{path} --item_vectors=FILE.npy {ids}`, {again}"
        )
    found = read_vectors(path)
    if found.user_ids is None or found.item_ids is None:
        raise TeacherError(
            f"{path} does not say which users and items its vectors belong to: run `recbole-kd import-teacher {path} "
            f"{ids}`, {again}"
        )
    return teacher_from_vectors(found.users, found.items, dataset, user_ids=found.user_ids, item_ids=found.item_ids)


def named_at(path: Path) -> str:
    """Return the name of the teacher at a path, without its scores; not for checkpoints (TeacherError)."""
    if path.suffix in VECTOR_SUFFIXES and path.is_file():
        return FactorScores.store
    if path.suffix in SUFFIXES and not path.is_dir():
        return ListScores.store
    if is_export(path):
        return str(((about_of(path) or {}).get("teacher") or {}).get("model", ""))
    return str(read_manifest(path).get("model", ""))


def _read_all(
    path: Path, manifest: Mapping[str, Any], dataset: Any, device: torch.device | str, epochs: Iterable[int]
) -> list[TeacherScores]:
    return [_read(path, manifest, dataset, device, epoch) for epoch in epochs]


def _read(
    path: Path, manifest: Mapping[str, Any], dataset: Any, device: torch.device | str, epoch: int | None = None
) -> TeacherScores:
    """Read the scores in a folder, or those of an earlier checkpoint if an epoch is given."""
    main = WEIGHTS if manifest["store"] == "online" else SCORES
    file = path / (main if epoch is None else of_epoch(main, epoch))
    if manifest["store"] == "online":
        scores: TeacherScores = _online(file, manifest, dataset, device)
    else:
        scores = scores_from(read_tensors(file), manifest)
    if scores.store != manifest["store"]:
        raise TeacherError(
            f"{path} holds a store of kind {scores.store}, its manifest says {manifest['store']}; delete the folder "
            "and train the teacher again"
        )
    if (scores.n_queries, scores.n_items) != (manifest["n_queries"], manifest["n_items"]):
        raise TeacherError(
            f"{file} holds scores of {scores.n_queries} x {scores.n_items}, its manifest says {manifest['n_queries']} "
            f"x {manifest['n_items']}; delete the folder and train the teacher again"
        )
    return scores


def check_data(manifest: Mapping[str, Any], dataset: Any) -> None:
    """Refuse a teacher made on other data (TeacherError).

    A data set with as many interactions as the teacher's own before its split is checked as the data before the split.
    Everything else is checked as the training split. An online teacher is always checked on the training split, because
    with more interactions its graph would give other scores.
    """
    own = manifest.get("data") or {}
    here = fingerprint_of(dataset, histories=False)
    before_split = here["train"]["count"] == (own.get("interactions") or {}).get("count")
    if before_split and not hasattr(dataset, "_dataset") and manifest.get("store") != "online":
        here["interactions"] = here.pop("train")
        here.pop("histories", None)
    _Manifest(manifest).check_data(here)  # first: data that is read again for the order must be of the same split
    if "train" in here and "histories" in own:
        _Manifest(manifest).check_data(fingerprint_of(dataset, histories=True))


class _Manifest(TeacherScores):
    """A teacher of which only the manifest has been read, not the scores."""

    store = "manifest"

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        super().__init__(0, 0, manifest)

    def full(self, queries: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("a manifest has no scores")


def _online(file: Path, manifest: Mapping[str, Any], dataset: Any, device: torch.device | str) -> OnlineScores:
    """Rebuild the teacher from its settings and weights."""
    settings = dict(manifest["settings"])
    if (settings.get("train_neg_sample_args") or {}).get("distribution") == "none":
        settings["train_neg_sample_args"] = None  # RecBole writes {distribution: none} and reads only None
    config = make_config(manifest["model"], manifest["dataset"], {}, settings)
    config["device"] = torch.device(device)
    model, scorer = _rebuilt(config, dataset, device)
    _load_weights(model, read_tensors(file), file.parent)
    return OnlineScores(scorer, manifest)


def _rebuilt(config: Any, dataset: Any, device: torch.device | str) -> tuple[torch.nn.Module, Scorer]:
    """Build a new model on the training part as the teacher used it, with its scorer."""
    given = getattr(dataset, "_dataset", dataset)
    part = getattr(given, "split_part", given)
    if is_recboles(given) or reads_histories(config["model"]):
        part = ordered_part(dataset)
    train = stage_parts(config, [part])[0]
    model = fresh_model(config, train).to(device)
    return model, Scorer(model, universe_of(train))


def _load_weights(model: torch.nn.Module, state: Mapping[str, Any], path: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise TeacherError(
            f"{path} does not fit this data: {detail}; it was made on other data or by another version"
        ) from None


def _from_checkpoint(path: Path, dataset: Any, device: torch.device | str) -> OnlineScores:
    """Load a teacher from RecBole's own checkpoint.

    A checkpoint has no fingerprint. Instead the data keys are compared, and the digests of item features if it has
    them.
    """
    if not path.is_file():
        raise TeacherError(f"No teacher at {path}: check --teacher_path, or train one with --teacher=<model>")
    checkpoint = load_checkpoint(path, map_location=torch.device(device))
    if not isinstance(checkpoint.get("config"), Config) or not isinstance(checkpoint.get("state_dict"), Mapping):
        raise TeacherError(
            f"{path} is not a checkpoint of RecBole's Trainer: give one, or a teacher folder, as --teacher_path"
        )
    config, train = checkpoint["config"], getattr(dataset, "_dataset", dataset)
    if issubclass(get_model(config["model"]), KnowledgeRecommender | ContextRecommender):
        raise TeacherError(
            f"{path} is a checkpoint of {config['model']}, which learns from other data than interactions and, in "
            f"RecBole, has ids of its own: give --teacher={config['model']}, which trains it on this run's split, or "
            "import its scores with recbole-kd import-teacher"
        )
    for key in ("dataset", "eval_args", *(key for key in dataset_arguments if key not in HISTORY_ARGUMENTS)):
        if config[key] != train.config[key]:
            raise TeacherError(
                f"The teacher {path} was trained with {key}={config[key]!r}, here it is {train.config[key]!r}: its ids "
                "or its split differ, train it with the same data settings"
            )
    _check_time_order(path, config, train)
    if config["eval_args"]["order"] == "RO" and split_seed(config) != split_seed(train.config):
        raise TeacherError(
            f"The teacher {path} was trained on a random split of seed {split_seed(config)}, here it is "
            f"{split_seed(train.config)}: it was trained on interactions that this run tests on, train it with the "
            "same seed of the split"
        )
    return _of_checkpoint(path, checkpoint, train, device)


def _check_time_order(path: Path, config: Any, train: Any) -> None:
    """Refuse a checkpoint that was split in another time order (TeacherError).

    It has seen interactions that are held out here.
    """
    theirs, here, change = time_order(config), time_order(train.config), getattr(train, "order_change", None)
    if theirs == here or not is_split_by_time(config) or (change is not None and not any(change)):
        return
    users = f", which moves interactions of {change.order:,} users" if change is not None else ""
    raise TeacherError(
        f"The teacher {path} was split with time_order={theirs}, here it is {here}{users}: it was trained on "
        f"interactions that this run tests on; set --time_order={theirs}, or train it with time_order={here}"
    )


def _of_checkpoint(path: Path, checkpoint: Mapping[str, Any], train: Any, device: torch.device | str) -> OnlineScores:
    """Rebuild the model of a checkpoint whose data keys have been checked."""
    config = checkpoint["config"]
    config["device"] = torch.device(device)
    recorded = config["item_feature_digests"]
    model: Any
    model, scorer = _rebuilt(config, train, device)
    _load_weights(model, checkpoint["state_dict"], path)
    model.load_other_parameter(checkpoint.get("other_parameter"))
    read = config["item_feature_digests"]
    if read and not recorded:
        getLogger().warning(
            f"The teacher {path} has no digest of its item features: the names and widths of {', '.join(read)} agree "
            "with the files that are here, but their content could not be compared"
        )
    manifest = {
        "model": config["model"],
        "settings": {"item_feature_digests": read} if read else {},
        "report": size_of(model),
    }
    further = {} if scorer.rows is None else {N_USERS: scorer.rows.n_whole}
    scores = OnlineScores(scorer, {**manifest, **further})
    scores.modalities = modalities_of(model)
    return scores
