"""Load and split a data set once for all stages of a run, and make each stage's loaders."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from recbole.data.utils import create_samplers, get_dataloader
from recbole.model.abstract_recommender import AbstractRecommender, SequentialRecommender
from recbole.sampler import KGSampler
from recbole.utils import init_seed
from torch import nn

from recbole_kd.config.argument_kinds import RECBOLE_CONFIG, instance_of, takes
from recbole_kd.data.atomic_file_checks import check_atomic_files, file_in_another_encoding
from recbole_kd.data.data_key_checks import check_data_keys
from recbole_kd.data.fingerprint import data_fingerprint
from recbole_kd.data.histories.ordered_dataset import HSTUGeneralDataset
from recbole_kd.data.histories.sequence_dataset import stage_parts
from recbole_kd.data.histories.user_blocks import blocks_per_batch
from recbole_kd.data.knowledge_graph import KnowledgePart
from recbole_kd.data.paper_protocol import follow_paper_protocol
from recbole_kd.data.prepared_files import check_prepared_files
from recbole_kd.data.reading_errors import reading_error
from recbole_kd.data.sampled_candidates import PHASES, CandidateRule
from recbole_kd.data.side_information import side_digest
from recbole_kd.data.split_seed import split_seed
from recbole_kd.data.train_items import train_items
from recbole_kd.errors import DataError


@dataclass
class Splits:
    """A data set and its three phases.

    Attributes:
        dataset: the data set before the split.
        parts: (train, valid, test) RecBole datasets, the same for every model. The data set that one model trains on is
            made from them (:func:`recbole_kd.data.histories.sequence_dataset.stage_parts`).
        fingerprint: fingerprint of all of them.
        side: digest of the other columns (:func:`recbole_kd.data.side_information.side_digest`).
        candidates: rule of sampled evaluation; None leaves it to RecBole.
    """

    dataset: Any
    parts: tuple[Any, Any, Any]
    fingerprint: dict[str, Any]
    side: str | None = None
    candidates: CandidateRule | None = None

    @property
    def n_users(self) -> int:
        """Number of users without the pad."""
        return int(self.dataset.user_num) - 1

    @property
    def n_items(self) -> int:
        """Number of items without the pad."""
        return int(self.dataset.item_num) - 1


@dataclass
class Loaders:
    """RecBole loaders of the three phases."""

    train: Any
    valid: Any
    test: Any


class PreparedData(NamedTuple):
    """A data set before its split, and RecBole's loaders of the three phases."""

    dataset: Any
    train: Any
    valid: Any
    test: Any


@takes(config=RECBOLE_CONFIG)
def prepare_data(config: Any) -> PreparedData:
    """Load and split the data set of a Config and build its loaders, as a run does.

    It replaces RecBole's ``create_dataset`` and ``data_preparation``, for general and sequential models.

    Args:
        config: RecBole's Config of the model to train.

    Raises:
        DataError: RecBole refuses the data, or a phase is empty.

    Examples:
        >>> config = Config(model="MF", dataset="tiny", config_dict=keys)  # such as data_path
        >>> data = recbole_kd.prepare_data(config)
        >>> data.dataset.user_num, data.dataset.item_num  # with the pad of each
        (31, 41)
        >>> [len(part.dataset.inter_feat) for part in (data.train, data.valid, data.test)]
        [382, 30, 30]
    """
    splits = split_data(config)
    loaders = make_loaders(config, splits)
    return PreparedData(splits.dataset, loaders.train, loaders.valid, loaders.test)


@takes(config=RECBOLE_CONFIG)
def split_data(config: Any, dataset_class: type[HSTUGeneralDataset] = HSTUGeneralDataset) -> Splits:
    """Load the data set that a Config names and split it by its ``eval_args``.

    The split has its own seed (``split_seed``, else ``seed``): a random split must be the same for the teacher and for
    every seed of the student.

    Args:
        dataset_class: class that reads and splits; :mod:`recbole_kd.data.recbole_split` has another one.

    Raises:
        DataError: RecBole refuses the data, a prepared file was changed, or a part of the split is empty.
    """
    init_seed(split_seed(config), config["reproducibility"])
    check_prepared_files(Path(config["data_path"]))
    check_data_keys(config, check_atomic_files(config))
    try:
        dataset = dataset_class(config)
        parts = tuple(dataset.build())
    except UnicodeDecodeError as error:
        raise file_in_another_encoding(config) or DataError(
            f"The data set {config['dataset']} cannot be read: {error}"
        ) from error
    except Exception as error:  # any error of RecBole here is about the data or about the keys that say how to read it
        raise reading_error(config, error) from error
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if len(part.inter_feat) == 0:
            raise DataError(
                f"The data set {config['dataset']} leaves no {name} interactions under "
                f"eval_args={config['eval_args']}: give that part a share of the split, or loosen the filters"
            )
    train, valid, test = parts
    rule = CandidateRule.of(config, split_seed(config))
    return Splits(
        dataset, (train, valid, test), data_fingerprint(train, valid, test, full=dataset), side_digest(dataset), rule
    )


def check_negatives(config: Any, splits: Splits) -> None:
    """Refuse data without negative items, on which RecBole's sampler would fail later.

    Raises:
        DataError: a user has interacted with all items, and the model may not draw one of them again (``repeatable``).
    """
    if config["repeatable"]:
        return
    users, items = (
        np.concatenate([np.asarray(part.inter_feat[field]) for part in splits.parts]) for field in _id_fields(splits)
    )
    if np.bincount(users).max() < splits.n_items:
        return
    pairs = np.unique(users.astype(np.int64) * (splits.n_items + 1) + items)
    full = np.flatnonzero(np.bincount(pairs // (splits.n_items + 1)) == splits.n_items)
    if len(full):
        token = splits.dataset.id2token(splits.dataset.uid_field, int(full[0]))
        raise DataError(
            f"User {str(token)!r} of {config['dataset']} has interacted with all {splits.n_items} items ({len(full)} "
            "such users), which leaves no negative item to draw: leave such users out, "
            f"--user_inter_num_interval=[0,{splits.n_items - 1}]"
        )


def _id_fields(splits: Splits) -> tuple[str, str]:
    return splits.dataset.uid_field, splits.dataset.iid_field


@takes(config=RECBOLE_CONFIG, splits=instance_of(Splits, words="the Splits that split_data(config) gives"))
def make_loaders(config: Any, splits: Splits, parts: Sequence[Any] | None = None) -> Loaders:
    """Build the loaders of one stage, with the model's own sampling and batch sizes.

    Args:
        parts: data sets of the stage, if they are built already
            (:func:`recbole_kd.data.histories.sequence_dataset.stage_parts`).
    """
    parts = stage_parts(config, splits.parts) if parts is None else parts
    samplers = create_samplers(config, splits.dataset, list(parts))
    phases = ("train", "valid", "test")
    of_graph = {"train": _graph_sampler(config, parts[0])} if isinstance(parts[0], KnowledgePart) else {}
    made = [
        get_dataloader(config, phase)(
            _batched_by(config, part),
            part,
            sampler,
            *of_graph.get(phase, ()),
            shuffle=phase == "train" and config["shuffle"],
        )
        for phase, part, sampler in zip(phases, parts, samplers, strict=True)
    ]
    _fix_candidates(config, splits, made)
    loaders = Loaders(*made)
    if config["eval_protocol"] == "paper":
        for loader in (loaders.valid, loaders.test):
            follow_paper_protocol(loader, train_items(splits.parts[0]))
    return loaders


def _batched_by(config: Any, part: Any) -> Any:
    """Return the Config of a part's loader, whose batches have ``train_batch_size`` rows.

    RecBole's loader counts what a part is iterated over, so one iterated by user is given the number of blocks that
    have as many rows on average. An epoch by user then has as many steps as one by row.
    """
    blocks = getattr(part, "blocks", None)
    if blocks is None:
        return config
    counted = copy.copy(config)
    size = blocks_per_batch(blocks, config["train_batch_size"])
    counted.final_config_dict = {**config.final_config_dict, "train_batch_size": size}
    return counted


def _graph_sampler(config: Any, part: KnowledgePart) -> tuple[KGSampler]:
    """Return RecBole's sampler of a graph's negative entities (DataError if there are none)."""
    drawn = config["train_neg_sample_args"]
    try:
        return (KGSampler(part, drawn["distribution"], drawn["alpha"]),)
    except ValueError as error:
        raise DataError(f"The graph of {config['dataset']} cannot be learnt from: {error}") from error


def _fix_candidates(config: Any, splits: Splits, loaders: Sequence[Any]) -> None:
    """Fix the candidates of sampled evaluation, and draw training negatives in this process.

    Worker processes draw negatives from their own random streams, so the number of workers would change the training.
    """
    for phase, loader in zip(PHASES[1:], loaders[1:], strict=True):
        sampler = (
            None
            if splits.candidates is None
            else splits.candidates.sampler(config, phase, splits.dataset, splits.parts)
        )
        if sampler is not None:
            loader._sampler = sampler
    batches = loaders[0]
    drawing = [batches.general_dataloader, batches.kg_dataloader] if hasattr(batches, "kg_dataloader") else [batches]
    if drawing[0].num_workers:
        getLogger().info(
            f"worker={config['worker']}: this many processes prepare evaluation batches; training batches are made in "
            "the main process, so that the negatives do not depend on the number of workers"
        )
        for loader in drawing:
            loader.num_workers = 0


def evaluation_batch_size(model: Any, n_users: int, n_items: int, memory_mb: int) -> int:
    """Return ``eval_batch_size`` for full ranking within a memory budget.

    RecBole counts rows for a sequential model and scores for others. It divides the size by the number of items: its
    default of 4096 scores one user at a time on CiteULike. A score row is counted three times (scores, mask and
    sort). A model without full_sort_predict scores user-item rows in one call, so its activations count too.

    Returns:
        A multiple of n_items, for at least one user and at most all. It is less only if a single user's rows exceed the
        budget of a model without full_sort_predict: RecBole then scores a user in several calls.
    """
    budget = memory_mb * 2**20 // 4
    ranks = type(model).full_sort_predict is not AbstractRecommender.full_sort_predict
    if isinstance(model, SequentialRecommender):
        return max(1, min(budget // (3 * n_items), n_users))
    users = budget // (3 * n_items) if ranks else budget // (n_items * _activation_width(model))
    rows = max(1, min(users, n_users)) * n_items
    return rows if ranks else max(1, min(rows, budget // _activation_width(model)))


def _activation_width(model: nn.Module) -> int:
    """Return the numbers that one scored row holds in the model: the outputs of its layers."""
    widths = [m.embedding_dim for m in model.modules() if isinstance(m, nn.Embedding)]
    widths += [2 * m.out_features for m in model.modules() if isinstance(m, nn.Linear)]
    return max(1, sum(widths))
