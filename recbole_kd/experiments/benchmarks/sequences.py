"""Seconds per epoch of sequential models for ``recbole-kd benchmark --sequences``."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from recbole.utils import get_model, init_seed

from recbole_kd.acceleration.accelerate import accelerate_on_cpu
from recbole_kd.config.property_layers import student_layers
from recbole_kd.data.split_and_loaders import make_loaders, split_data
from recbole_kd.experiments.benchmarks.made_data import random_teacher
from recbole_kd.integration.recbole_config import make_config
from recbole_kd.pipeline.request import without_negatives
from recbole_kd.scoring.vector_models import softmax_of
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.trainer import KDTrainer

PUBLISHED = {
    "embedding_size": 64, "attention_size": 8, "linear_size": 16, "input_dropout": 0.5, "linear_dropout": 0.5,
    "position_bias": False, "time_bias": False, "loss": "sampled_softmax", "n_negatives": 512, "temperature": 0.05,
    "MAX_ITEM_LIST_LENGTH": 100, "train_batch_size": 128,
}  # fmt: skip
"""Published keys of HSTU on CiteULike. The student has one block of two heads, the teacher eight of four."""

METHOD = {"kd": "RCEKD", "kd_k": 50, "kd_n_samples": 50, "kd_candidates": 200}
LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
PREFIX_BATCHES = 8


def make_trainer(
    model: str,
    kd: bool,
    data: dict[str, Any],
    given: dict[str, Any],
    by_length: bool = True,
    scalars: Path | None = None,
) -> tuple[Any, Any]:
    """Return a trainer and its loaders.

    It has RCE-KD with a random general teacher, or no distiller. With ``by_length=False`` the model trains as in
    RecBole, with padding. Scalars are written to RecBole's own place, or into the folder ``scalars``.
    """
    values = {**data, "show_progress": False, "seed": 0, "normalize_all": False, **given, **(METHOD if kd else {})}
    name = values.pop("dataset")
    config = make_config(model, name, without_negatives(model, name, student_layers(model, name)[0], values), values)
    init_seed(config["seed"], True)
    splits = split_data(config)
    loaders = make_loaders(config, splits)
    network = get_model(model)(config, loaders.train._dataset).to(config["device"])
    if by_length:
        accelerate_on_cpu(network, softmax_of(network))
    teacher = random_teacher(splits.n_users + 1, splits.n_items + 1)
    distiller = build_distiller(config, network, teacher, loaders.train) if kd else None
    trainer = KDTrainer(config, network, distiller, scalars=scalars)
    trainer.prepare(loaders.train)
    return trainer, loaders


def epoch_seconds(pairs: list[tuple[Any, Any]], repeats: int) -> list[float]:
    """Return the median seconds per epoch of trainers run in turn, after a warm-up epoch."""
    times: list[list[float]] = [[] for _ in pairs]
    for epoch in range(repeats + 1):
        for (trainer, loaders), seconds in zip(pairs, times, strict=True):
            started = perf_counter()
            trainer._train_epoch(loaders.train, epoch)
            seconds.append(perf_counter() - started)
    return [median(seconds[1:]) for seconds in times]


def prefix_epoch_seconds(data: dict[str, Any], blocks: dict[str, int]) -> float:
    """Return the seconds of an HSTU epoch with one row per prefix, as RecBole trains.

    It is extrapolated from a few batches.
    """
    trainer, loaders = make_trainer(
        "HSTU", False, data, {**PUBLISHED, **blocks, "eval_args": LEAVE_ONE_OUT, "benchmark_filename": None}
    )
    rows, model, size = loaders.train._dataset.rows, trainer.model, PUBLISHED["train_batch_size"]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    model.train()
    started = perf_counter()
    for batch in order.split(size)[:PREFIX_BATCHES]:
        interaction = rows.interaction(batch)
        encoded, _ = model.encode(interaction)
        last = encoded.layout.last
        only_last = torch.zeros(len(encoded.positions), dtype=torch.int64).index_copy(0, last, interaction["item_id"])
        trainer.optimizer.zero_grad()
        model.loss_of(encoded, only_last).backward()
        trainer.optimizer.step()
    return (perf_counter() - started) / PREFIX_BATCHES * len(order.split(size))


def time_sequences(name: str, small: str, folder: Path, repeats: int) -> dict[str, float]:
    """Time HSTU at one size, and SASRec at a smaller one.

    The softmax of SASRec is over the whole catalogue for every prefix.
    """
    files = {"data_path": str(folder), "load_col": {"inter": ["user_id", "item_id"]}}
    published = {**files, "dataset": name, "benchmark_filename": ["train", "valid", "test"]}
    teacher, student = {"n_layers": 8, "n_heads": 4}, {"n_layers": 1, "n_heads": 2}
    (large,) = epoch_seconds([make_trainer("HSTUGeneral", False, published, {**PUBLISHED, **teacher})], repeats)
    prefixes = prefix_epoch_seconds({**files, "dataset": f"{name}-whole"}, teacher)
    plain, kd = epoch_seconds(
        [make_trainer("HSTUGeneral", each, published, {**PUBLISHED, **student}) for each in (False, True)], repeats
    )
    of_sasrec = {"eval_args": LEAVE_ONE_OUT, "train_batch_size": 256, "n_layers": 1, "n_heads": 1}
    histories = {**files, "dataset": f"{small}-whole"}
    sasrec, sasrec_kd, padded = epoch_seconds(
        [
            make_trainer("SASRec", kd, histories, of_sasrec, grouped)
            for kd, grouped in ((False, True), (True, True), (False, False))
        ],
        repeats,
    )
    return {
        "hstu_8x4_epoch": large, "hstu_8x4_epoch_by_prefix": prefixes, "times_faster_than_by_prefix": prefixes / large,
        "hstu_1x2_epoch": plain, "hstu_1x2_kd_epoch": kd, "hstu_kd_ratio": kd / plain,
        "sasrec_1x1_epoch": sasrec, "sasrec_1x1_kd_epoch": sasrec_kd, "sasrec_kd_ratio": sasrec_kd / sasrec,
        "sasrec_1x1_epoch_padded": padded, "sasrec_times_faster_than_padded": padded / sasrec,
    }  # fmt: skip
