"""One benchmark case: trainers on synthetic data, with their epochs timed in this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recbole.utils import get_model, get_trainer, init_seed

from recbole_kd.acceleration.lightgcn_propagation import accelerate
from recbole_kd.config.property_layers import student_layers
from recbole_kd.data.split_and_loaders import evaluation_batch_size, make_loaders, split_data
from recbole_kd.evaluation.efficiency import peak_rss_mb
from recbole_kd.experiments.benchmarks.floors import Work, measure
from recbole_kd.experiments.benchmarks.made_data import Made, counts_of, read_teacher
from recbole_kd.experiments.benchmarks.phases import PHASES, Clock, timed
from recbole_kd.integration.recbole_config import make_config
from recbole_kd.training.build_distiller import build_distiller, known_kd_keys
from recbole_kd.training.trainer import KDTrainer

ALONE = "alone"
"""Value in place of a method for our trainer without a distiller."""


@dataclass(frozen=True)
class Case:
    """A student, a method and a size.

    Attributes:
        model: the student.
        kd: a method, :data:`ALONE`, or None for RecBole's own trainer.
        size: size of the synthetic data.
        folder: folder of the synthetic data.
        width: width of the student.
        options: RecBole's and ``kd_*`` keys for the KD run.
    """

    model: str
    kd: str | None
    size: str
    folder: str
    width: int = 20
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def made(self) -> Made:
        return Made(f"made-{self.size}", self.size, Path(self.folder))

    def plain(self) -> Case:
        """Return RecBole's own training of the same student at the same width."""
        return Case("BPR" if self.model == "MF" else self.model, None, self.size, self.folder, self.width)


def known_options(kd: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that this method knows, because one command may time several methods."""
    known = known_kd_keys(kd)
    return {key: value for key, value in options.items() if not key.startswith("kd_") or key in known}


def build(case: Case) -> tuple[Any, Any]:
    """Return a trainer and its loaders: RecBole's for a plain run, else ours."""
    files = {
        "data_path": case.folder,
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id"]},
    }
    usual = {
        "embedding_size": case.width,
        "train_batch_size": 2048,
        "show_progress": False,
        "seed": 0,
        "normalize_all": False,
    }
    distils = case.kd not in (None, ALONE)
    method = {"kd": case.kd, **known_options(str(case.kd), case.options)} if distils else case.options
    config = make_config(
        case.model, case.made.name, student_layers(case.model, case.made.name)[0], {**files, **usual, **method}
    )
    init_seed(0, True)
    splits = split_data(config)
    network = get_model(case.model)(config, splits.parts[0]).to(config["device"])
    if "eval_batch_size" not in case.options:
        config["eval_batch_size"] = evaluation_batch_size(
            network, splits.n_users, splits.n_items + 1, config["eval_memory_mb"]
        )
    loaders = make_loaders(config, splits)
    if case.kd is None:
        trainer = get_trainer(config["MODEL_TYPE"], case.model)(config, network)
    else:
        accelerate(network)
        trainer = KDTrainer(
            config, network, build_distiller(config, network, read_teacher(case.made)) if distils else None
        )
        trainer.prepare(loaders.train)
    trainer.eval_collector.data_collect(loaders.train)
    return trainer, loaders


def epoch_seconds(cases: Sequence[tuple[Any, Any]], repeats: int) -> list[float]:
    """Return the median seconds per epoch of trainers run in turn, after a warm-up epoch."""
    times: list[list[float]] = [[] for _ in cases]
    for epoch in range(repeats + 1):
        for (trainer, loaders), seconds in zip(cases, times, strict=True):
            started = perf_counter()
            trainer._train_epoch(loaders.train, epoch)
            seconds.append(perf_counter() - started)
    return [median(seconds[1:]) for seconds in times]


def phase_seconds(trainer: Any, loaders: Any, epochs: Sequence[int]) -> dict[str, float]:
    """Return the median seconds of each phase over epochs with an evaluation after each."""
    found: list[dict[str, float]] = []
    for epoch in epochs:
        with timed(trainer) as clock:
            trainer._train_epoch(loaders.train, epoch)
            trainer.evaluate(loaders.valid, load_best_model=False)
        found.append(in_order(clock))
    return {name: median(seconds[name] for seconds in found) for name in found[0]}


def in_order(clock: Clock) -> dict[str, float]:
    return {name: clock.seconds[name] for name in PHASES if name in clock.seconds}


def time_together(case: Case, repeats: int) -> dict[str, Any]:
    """Time plain and KD epochs in turn, and both by phase."""
    plain, distilled = build(case.plain()), build(case)
    plain_seconds, seconds = epoch_seconds([plain, distilled], repeats)
    more = range(repeats + 1, repeats + 1 + max(1, (repeats + 1) // 2))
    work = work_of(case, *distilled)
    return {
        "seconds_per_epoch": seconds,
        "plain_seconds_per_epoch": plain_seconds,
        "phases": phase_seconds(*distilled, more),
        "plain_phases": phase_seconds(*plain, more),
        "work": asdict(work),
    }


def once(case: Case) -> dict[str, Any]:
    """Time a first epoch and an evaluation by phase, for a separate process.

    Time and memory of the preparation before them are measured too.
    """
    started = perf_counter()
    trainer, loaders = build(case)
    before = {"preparation_seconds": perf_counter() - started, "preparation_peak_rss_mb": peak_rss_mb()}
    phases = phase_seconds(trainer, loaders, [0])
    seconds = sum(value for name, value in phases.items() if name != "evaluation")
    work = None if case.kd is None else asdict(work_of(case, trainer, loaders))
    index = getattr(getattr(getattr(trainer, "distiller", None), "student_scorer", None), "index", None)
    found = {"seconds_per_epoch": seconds, "phases": phases, **before, "peak_rss_mb": peak_rss_mb(), "work": work}
    return found | ({} if index is None else {"candidate_index": index.report()})


def memory_of(case: Case) -> float:
    """Return the peak resident MiB of two epochs and one evaluation in this process."""
    trainer, loaders = build(case)
    for epoch in range(2):
        trainer._train_epoch(loaders.train, epoch)
    trainer.evaluate(loaders.valid, load_best_model=False)
    return peak_rss_mb()


def work_of(case: Case, trainer: Any, loaders: Any) -> Work:
    """Return the sizes of an epoch of a KD trainer, for the floors. This draws its item sets."""
    n_users, n_items, _ = counts_of(case.size)
    distiller, scorer = trainer.distiller, trainer.distiller.student_scorer
    users = np.asarray(loaders.train._dataset.inter_feat[loaders.train._dataset.uid_field])
    size = trainer.config["train_batch_size"]
    shuffled = np.random.default_rng(0).permutation(users)
    batches = [shuffled[start : start + size] for start in range(0, len(users), size)]
    embeddings = distiller.teacher_scores.embeddings()
    nlist, nprobe = (scorer.index.sizes or (1, 1)) if scorer.index is not None else (1, 1)
    return Work(
        users=n_users,
        items=n_items,
        width=case.width,
        layers=int(getattr(trainer.model, "n_layers", 0)) if hasattr(trainer.model, "norm_adj_matrix") else 0,
        rows=len(users),
        batches=len(batches),
        parameters=sum(p.numel() for p in trainer.model.parameters()),
        queries=sum(len(np.unique(batch)) for batch in batches),
        listed=sum(ids.shape[1] for ids in distiller.item_sets.values()),
        depth=_depth(distiller),
        teacher_width=0 if embeddings is None else embeddings[1].shape[1],
        seen=1.0 if scorer.index is None else nprobe / nlist + nlist / n_items,
        evaluated=len(loaders.valid.uid_list),
    )


def _depth(distiller: Any) -> int:
    """Return the length of the student's list at a refresh, 0 if the student is not ranked."""
    scorer, asked = distiller.student_scorer, [0]
    state, plain = distiller.sampling_state(), scorer.top_k

    def noted(queries: Any, k: int, *rest: Any) -> Any:
        asked.append(k)
        raise _NotedError

    scorer.top_k = noted
    try:
        distiller.begin_epoch(0)
    except _NotedError:
        pass
    finally:
        scorer.top_k = plain
        distiller.restore_sampling(state)
    return max(asked)


class _NotedError(Exception):
    """An exception that ends a refresh that was started only for its sizes."""


def evaluation_seconds(size: str, folder: str) -> dict[str, float]:
    """Return the seconds of a full-ranking evaluation of BPR, ours and RecBole's.

    Each is the median of five after a warm-up. RecBole's has its default batch size of 4096.
    """
    seconds = {}
    for name, kd, given in (
        ("evaluation_seconds", ALONE, {}),
        ("recbole_evaluation_seconds", None, {"eval_batch_size": 4096}),
    ):
        trainer, loaders = build(Case("BPR", kd, size, folder, options=given))
        times = []
        for _ in range(6):
            started = perf_counter()
            trainer.evaluate(loaders.test, load_best_model=False)
            times.append(perf_counter() - started)
        seconds[name] = median(times[1:])
    return seconds


def machine_rates() -> dict[str, Any]:
    """Return the measured rates and the name of this machine."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates = asdict(measure(device))
    return {
        **rates,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
