"""Full-ranking metrics of a teacher's scores, for a teacher whose metrics are not known."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import Collector
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import get_model

from recbole_kd.data.split_and_loaders import Splits, make_loaders
from recbole_kd.evaluation.loader_items import items_of_rows, items_of_users, over_all_users, rows_of
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.stores.remapped import N_USERS, MappedScores, asked_as


def teacher_metrics(config: Any, splits: Splits, teacher: TeacherScores) -> dict[str, Any]:
    """Return the metrics of a teacher on validation and test, as those of the student are computed.

    A teacher of ranked lists is ranked by its lists: what a list lacks is not found, and a user without a list finds
    nothing.

    Args:
        config: Config of the student.
        splits: the data.
        teacher: scores by user.

    Returns:
        ``valid`` and ``test``, each None if it is not measured: a catalogue is sampled, a metric needs more than the
        ranked lists, there are several teachers, or the histories of the phase are not among those that a teacher of
        histories answers about, which hold training items only.
    """
    unknown: dict[str, Any] = {"valid": None, "test": None}
    if len(teacher.members) > 1 or not _needs_lists_only(config):
        return unknown
    whole = N_USERS not in teacher.manifest or config["eval_protocol"] == "paper"
    return unknown | _metrics_of(config, splits, teacher, ["valid", "test"] if whole else ["valid"])


def _metrics_of(config: Any, splits: Splits, teacher: TeacherScores, phases: list[str]) -> dict[str, Any]:
    """Return the metrics of one teacher by phase; see :func:`teacher_metrics`."""
    if N_USERS in teacher.manifest:
        whole = torch.arange(int(teacher.manifest[N_USERS]))
        teacher = asked_as(teacher, whole, whole)
    loaders = make_loaders(config, splits)
    return {phase: _metrics_on(config, getattr(loaders, phase), teacher) for phase in phases}


def valid_as_student(config: Any, splits: Splits, teacher: TeacherScores) -> dict[str, float] | None:
    """Return a teacher's validation metrics as those of a student of the other family are computed.

    RecBole leaves a user's training items out of the rankings of general models, and not of those of sequential ones.
    So the metrics that a SASRec teacher got in its own training do not compare with those of an MF student.

    Args:
        config: Config of the student.
        splits: the data.
        teacher: scores by user or by training history.

    Returns:
        the metrics, or None if both are of one family or it is not measured, see :func:`teacher_metrics`.
    """
    of_histories = any(N_USERS in member.manifest for member in teacher.members)
    if of_histories == issubclass(get_model(config["model"]), SequentialRecommender):
        return None
    if len(teacher.members) > 1 or not _needs_lists_only(config):
        return None
    return _metrics_of(config, splits, teacher, ["valid"])["valid"]


def _needs_lists_only(config: Any) -> bool:
    wanted = vars(Collector(config).register).items()
    return {name for name, value in wanted if name.startswith(("rec.", "data.")) and value} == {"rec.topk"}


@torch.no_grad()
def _metrics_on(config: Any, loader: Any, teacher: TeacherScores) -> dict[str, float] | None:
    """Return the metrics on one loader, or None if it does not rank the whole catalogue."""
    if not isinstance(loader, FullSortEvalDataLoader):
        return None
    rows, k, device = rows_of(loader), max(config["topk"]), torch.device(config["device"])
    if rows is None:
        if loader.is_sequential:
            return None
        queries = loader.uid_list.to(device)
        names = ("uid2history_item", "uid2positive_item")
        history, held_out = (items_of_users(loader, name, config["device"]) for name in names)
    else:
        queries, teacher = torch.arange(len(rows)), MappedScores(teacher, rows.users)
        history, held_out = items_of_rows(loader, rows, device)  # type: ignore[assignment]
    held_out = held_out.to(device)
    ids, _ = teacher.top_k(queries, k, None if history is None else history.to(device))
    hits = held_out.contains(queries, ids).int()
    found = torch.cat([hits, held_out.counts()[queries].int().unsqueeze(1)], dim=1)
    collector = Collector(config)
    collector.data_struct.update_tensor("rec.topk", found)
    result: dict[str, float] = over_all_users(Evaluator(config).evaluate(collector.get_data_struct()), loader)
    return {name: float(value) for name, value in result.items()}
