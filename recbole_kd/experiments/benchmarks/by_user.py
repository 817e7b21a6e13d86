"""Training by user beside RecBole's rows: seconds and validation NDCG@10 of an epoch."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from tabulate import tabulate

from recbole_kd.errors import ConfigError
from recbole_kd.experiments.benchmarks.sequences import LEAVE_ONE_OUT, make_trainer
from recbole_kd.experiments.benchmarks.timed_steps import seconds_of_epoch, steps_of
from recbole_kd.storage.files import write_json

ROWS, BY_USER = "rows", "by user"
WAYS = {
    "RecBole's rows, RecBole's code": {"by_user": False, "ours": False, "kd": False},
    "RecBole's rows, as a run trains them": {"by_user": False, "ours": True, "kd": False},
    BY_USER: {"by_user": True, "ours": True, "kd": False},
    "by user, RCE-KD": {"by_user": True, "ours": True, "kd": True},
}  # fmt: skip
"""Trainings whose steps are timed: by row or by user, in whose code, with or without a teacher."""

KEYS = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "eval_args": LEAVE_ONE_OUT, "metrics": ["NDCG"],
    "topk": [10], "valid_metric": "NDCG@10", "epochs": 10, "state": "ERROR", "benchmark_filename": None,
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A model and a data set that both ways train on.

    Attributes:
        model: SASRec or GRU4Rec. dataset: name of the data set.
        options: RecBole's keys of all trainings. They all end after ``epochs``.
    """

    model: str
    dataset: str
    options: Mapping[str, Any]

    def trainer(self, folder: Path, by_user: bool, ours: bool = True, kd: bool = False, **more: Any) -> tuple[Any, Any]:
        """Return a trainer and its loaders.

        With ``ours=False`` the model trains in RecBole's code, but for the fused Adam.
        """
        keys = {**KEYS, **self.options, **more, "train_by_user": by_user}
        keys["stopping_step"] = keys["epochs"]
        return make_trainer(self.model, kd, {"dataset": self.dataset}, keys, ours, folder)


def seconds_by_way(trial: Trial, steps: int) -> list[dict[str, Any]]:
    """Return the seconds of an epoch of each of :data:`WAYS`.

    They are those of its beginning, its first step, and the mean of some later steps times their number. The four train
    in turn, step by step, in this process, after an uncounted beginning and step of each, in which kernels are
    compiled. RCE-KD begins with new item sets and their scores by a random teacher of width 400.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = [trial.trainer(Path(folder, str(n)), **WAYS[way]) for n, way in enumerate(WAYS)]
        for trainer, loaders in made:
            next(steps_of(0, trainer, loaders))
        running = [steps_of(1, trainer, loaders) for trainer, loaders in made]
        found = [[next(each) for each in running] for _ in range(steps + 1)]
    rows = []
    for number, (way, (_, loaders)) in enumerate(zip(WAYS, made, strict=True)):
        n = len(loaders.train)
        elapsed, cpu = seconds_of_epoch([turn[number] for turn in found], n)
        rows.append({"training": way, "steps": n, "elapsed_seconds": elapsed, "cpu_seconds": cpu})
    return rows


def curve(trial: Trial, by_user: bool, seed: int) -> list[dict[str, float]]:
    """Train, and return each epoch's validation NDCG@10, loss per step and elapsed seconds."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        trainer, loaders = trial.trainer(Path(folder), by_user, seed=seed)

        def note(epoch: int, score: float) -> None:
            loss = trainer.history[-1]["base_loss"] / len(loaders.train)
            found.append({"ndcg@10": float(score), "loss": loss, "seconds": trainer.epoch_seconds[-1]})

        trainer.fit(loaders.train, loaders.valid, saved=False, callback_fn=note)
    return found


def report_by_user(trial: Trial, seeds: Sequence[int], steps: int, output: Path | None) -> None:
    """Time steps, train with each seed in both ways, and print both tables.

    Args:
        trial: what is trained.
        seeds: a training of each kind for each.
        steps: timed steps of each of :data:`WAYS`; 0 times none.
        output: a JSON file that gets the figures after each training. A file of an earlier call of the same trial is
            continued.

    Raises:
        ConfigError: the file is not one of this trial.
    """
    record = _record(trial, output)
    if steps and not record["epochs"]:
        record["epochs"] = seconds_by_way(trial, steps)
        _keep(record, output)
    print(time_table(record["epochs"]), flush=True)
    for seed in seeds:
        for way in (ROWS, BY_USER):
            if str(seed) not in record[way]:
                record[way][str(seed)] = curve(trial, way == BY_USER, seed)
                _keep(record, output)
    print("", curve_table(*([record[way][str(seed)] for seed in seeds] for way in (ROWS, BY_USER))), sep="\n")


def _record(trial: Trial, output: Path | None) -> dict[str, Any]:
    """Return the record of an earlier call of the same trial, or an empty one."""
    of = {"model": trial.model, "dataset": trial.dataset, "options": dict(trial.options)}
    record = {**of, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "epochs": [], ROWS: {}, BY_USER: {}}
    if output is None or not output.exists():
        return record
    try:
        earlier: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
        same = record.keys() == earlier.keys() and all(earlier[name] == value for name, value in of.items())
    except (ValueError, AttributeError):
        same = False
    if not same:
        raise ConfigError(
            f"--output={output} is not a record of this trial: give a new file, or the same keys as before"
        )
    return earlier


def _keep(record: Mapping[str, Any], output: Path | None) -> None:
    if output is not None:
        write_json(output, record)


def time_table(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the seconds of an epoch, beside RecBole's code and training by user."""
    of = {row["training"]: row["cpu_seconds"] for row in epochs}
    lines = [
        [*row.values(), of[next(iter(WAYS))] / row["cpu_seconds"], row["cpu_seconds"] / of[BY_USER]] for row in epochs
    ]
    headers = ["an epoch", "steps", "elapsed, s", "CPU s", "times as fast as RecBole's code", "epochs by user"]
    return tabulate(lines, headers, tablefmt="github", floatfmt=".2f")


def curve_table(rows: Sequence[Sequence[Mapping[str, float]]], by_user: Sequence[Sequence[Mapping[str, float]]]) -> str:
    """Return a table of NDCG@10 by epoch, the mean and range over seeds.

    The difference of the means of both ways has its standard error.
    """
    lines = []
    for epoch, runs in enumerate(zip(*rows, *by_user, strict=True), 1):
        scores = [run["ndcg@10"] for run in runs]
        sides = scores[: len(rows)], scores[len(rows) :]
        error = (sum(stdev(side) ** 2 / len(side) for side in sides)) ** 0.5 if len(rows) > 1 else float("nan")
        spread = [text for side in sides for text in (mean(side), f"{min(side):.4f} to {max(side):.4f}")]
        lines.append([epoch, *spread, mean(sides[1]) - mean(sides[0]), error])
    headers = ["epoch", "rows", "from, to", "by user", "from, to", "difference", "standard error"]
    return tabulate(lines, headers, tablefmt="github", floatfmt=".4f")
