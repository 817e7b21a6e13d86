"""Compare a student's ranking for unseen users with the one after training on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import get_model

from recbole_kd.config.schema import DEFAULT_WEIGHT
from recbole_kd.data.fingerprint import data_fingerprint
from recbole_kd.data.histories.sequence_dataset import reads_histories
from recbole_kd.data.split_and_loaders import Splits, split_data
from recbole_kd.errors import ConfigError
from recbole_kd.pipeline.plan import make_plan
from recbole_kd.pipeline.request import Request, make_request
from recbole_kd.pipeline.stages import distill, ensure_teachers
from recbole_kd.pipeline.training_entries import RunContext, settings_of
from recbole_kd.serving.known_interactions import TEST, KnownInteractions, TestedWith, seen_columns
from recbole_kd.serving.pack_student import pack_student
from recbole_kd.serving.student import Student, load_student
from recbole_kd.serving.student_files import FOLDER
from recbole_kd.training.training_job import TrainingFiles, TrainingJob

VALID = 1
"""Number of the validation part."""


@dataclass(frozen=True)
class TwoStudents:
    """One student trained on all users, one on all but some.

    Attributes:
        everybody, without: the students. known: all interactions. users: external ids of those held out.
    """

    everybody: Student
    without: Student
    known: KnownInteractions
    users: list[str]


def two_students(keys: Mapping[str, Any], folder: Path, share: float = 0.1, seed: int = 0) -> TwoStudents:
    """Train a student on all users and without a random share of them.

    Args:
        keys: of a run; without ``teacher`` and ``kd`` the student is trained alone. folder: students that are there
            already are read, not trained again. share: of the users to hold out. seed: of their choice.

    Raises:
        KDError: bad input.
    """
    config, _ = _request(keys).student_config()
    splits = split_data(config)
    chosen = held_out(splits.n_users, share, seed)
    places = (folder / "everybody", folder / f"without-{share:g}-seed{seed}")
    for place, data in zip(places, (splits, without_users(splits, chosen)), strict=True):
        if not (place / FOLDER).is_dir():
            _train(keys, data, place)
    everybody, without = (load_student(place) for place in places)
    tested = TestedWith.of(config, issubclass(get_model(config["model"]), SequentialRecommender))
    known = KnownInteractions(seen_columns(splits.parts), splits.n_users + 1, tested)
    return TwoStudents(everybody, without, known, list(everybody.users.of(chosen)))


def _request(keys: Mapping[str, Any]) -> Request:
    if "kd" in keys:
        return make_request({"kd_weight": DEFAULT_WEIGHT, **keys})
    if keys.get("teacher") or keys.get("teacher_path"):
        raise ConfigError("--kd is missing: name the method too (--kd=RCEKD), or leave the teacher out")
    return make_request(
        {**keys, "teacher": "MF", "kd": "CE", "kd_k": 1}
    )  # a run names them; the student alone reads none


def held_out(n_users: int, share: float, seed: int) -> np.ndarray:
    """Return the sorted ids of a random share of the users, int64, without the pad."""
    drawn = np.random.default_rng(seed).choice(n_users, size=max(1, round(share * n_users)), replace=False)
    return np.sort(drawn + 1)


def without_users(splits: Splits, users: np.ndarray) -> Splits:
    """Return the splits without some users' interactions; all ids keep their places."""
    train, valid, test, dataset = (_without(part, users) for part in (*splits.parts, splits.dataset))
    fingerprint = data_fingerprint(train, valid, test, full=dataset)
    return Splits(dataset, (train, valid, test), fingerprint, splits.side, splits.candidates)


def _without(part: Any, users: np.ndarray) -> Any:
    columns = part.inter_feat
    return part.copy(columns[~np.isin(np.asarray(columns[part.uid_field]), users)])


def _train(keys: Mapping[str, Any], splits: Splits, folder: Path) -> None:
    plan = make_plan(_request(keys), splits)
    context = RunContext(splits, folder / "cache", folder, resume=True)
    config = plan.distilled if "kd" in keys else plan.alone
    settings = settings_of(config)
    if "kd" in keys:
        model, figures = distill(config, context, ensure_teachers(plan.teachers, context)[0])
    else:
        files = TrainingFiles.in_folder(folder / "training", folder / "tensorboard")
        model, figures = TrainingJob(config, splits, files, context.resume).train()
    metrics = {part: figures[part] for part in ("valid", "test")}
    about = {key: config[key] for key in ("dataset", "seed", "eval_protocol", "kd")}
    about |= {"teacher": keys.get("teacher"), "metrics": metrics}
    pack_student(folder / FOLDER, model, config, settings, splits.parts, about, "")


def ndcg_of_new_users(students: TwoStudents, part: int = TEST, k: int = 10) -> dict[str, float]:
    """Return the NDCG@k of the held-out users, ``trained`` on and ``new``.

    A new user's history are the training rows; the ranking leaves out what the run's evaluation of that part leaves
    out. Users without an item in the part do not count.
    """
    wanted = _items(students, part)
    masked = _masked(students, part)
    histories = {user: items for user, items in _items(students, 0).items() if user in wanted}
    times = _times(students, histories) if students.without.config["has_times"] else None
    deeper = k + max(len(masked[user]) for user in histories)
    as_new = students.without.recommend_for(histories, deeper, exclude_seen=False, times=times)
    if part == TEST:
        as_known = students.everybody.recommend(list(histories), k, exclude_seen="protocol")
    elif reads_histories(students.everybody.config["model"]):  # recommend() would read the items that are ranked here
        as_known = students.everybody.recommend_for(histories, deeper, exclude_seen=False, times=times)
    else:
        as_known = students.everybody.recommend(list(histories), deeper, exclude_seen=False)
    return {
        "trained": ndcg(_lists(as_known, masked, k), wanted, k),
        "new": ndcg(_lists(as_new, masked, k), wanted, k),
        "users": len(histories),
    }


def _columns(students: TwoStudents, part: int, column: str) -> dict[str, list[Any]]:
    seen, tokens = students.known.seen, students.everybody.users
    places = tokens.places(students.users)
    found: dict[str, list[Any]] = {}
    for user, place in zip(students.users, places, strict=True):
        mine = seen[column][(seen["user"] == int(place)) & (seen["part"] == part)]
        if len(mine):
            found[user] = mine.tolist()
    return found


def _items(students: TwoStudents, part: int) -> dict[str, list[str]]:
    tokens = students.everybody.items
    return {user: list(tokens.of(np.array(items))) for user, items in _columns(students, part, "item").items()}


def _times(students: TwoStudents, users: Iterable[str]) -> dict[str, list[float]]:
    times = _columns(students, 0, "time")
    return {user: times[user] for user in users}


def _masked(students: TwoStudents, part: int) -> dict[str, set[str]]:
    """Return the items of each held-out user that are not ranked for a part."""
    n_masked = min(students.known.tested.masked, part)
    parts = [_items(students, number) for number in range(n_masked)]
    targets = _items(students, part) if students.known.tested.but_targets else {}
    return {
        user: set().union(*(items.get(user, ()) for items in parts)) - set(targets.get(user, ()))
        for user in students.users
    }


def _lists(frame: pd.DataFrame, masked: Mapping[str, set[str]], k: int) -> dict[str, list[str]]:
    ranked = frame.sort_values(["user", "rank"], kind="stable")
    return {
        user: [item for item in some["item"] if item not in masked[user]][:k] for user, some in ranked.groupby("user")
    }


def ndcg(lists: Mapping[str, Sequence[str]], wanted: Mapping[str, Sequence[str]], k: int) -> float:
    """Return the mean NDCG@k over the users of ``wanted``."""
    total = 0.0
    for user, items in wanted.items():
        gained = sum(1 / math.log2(place + 2) for place, item in enumerate(lists[user][:k]) if item in set(items))
        total += gained / sum(1 / math.log2(place + 2) for place in range(min(k, len(set(items)))))
    return total / len(wanted)
