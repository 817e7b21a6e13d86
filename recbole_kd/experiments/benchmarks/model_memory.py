"""Peak memory of every model of RecBole on 1,000 users and 2,000 items, at its default sizes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from recbole_kd.acceleration.accelerate import accelerate_on_cpu
from recbole_kd.config.merging import merge_sources
from recbole_kd.data.histories.sequence_dataset import stage_parts
from recbole_kd.data.split_and_loaders import make_loaders, split_data
from recbole_kd.data.vectorised_batches import batches_of
from recbole_kd.errors import KDError
from recbole_kd.experiments.benchmarks.made_data import random_teacher
from recbole_kd.experiments.benchmarks.model_matrix import (
    FAULT,
    REFUSED,
    TRAINED,
    Cell,
    Outcome,
    cells_of,
    fault_words,
    outcome_of,
    run_cells,
    write_data,
)
from recbole_kd.model.build_model import fresh_model
from recbole_kd.pipeline.request import make_request
from recbole_kd.scoring.own_scores import ranks_whole_catalogue
from recbole_kd.scoring.vector_models import softmax_of
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.trainer import KDTrainer

N_USERS, N_ITEMS, COLOURS = 1000, 2000, 51
SECONDS = 300
"""Limit of a model, in seconds of processor time. What it used until then is its peak."""

PAIR_BATCH = 16
"""Rows of a step of FullCE by a model that scores pair by pair; other steps have the model's default.

Each row stands for 2,000 pairs, which are scored in blocks of the same size whatever the batch is.
"""

TEACHER_WIDTH = 8


def cells(only: Iterable[str] = ()) -> tuple[list[Cell], list[Cell]]:
    """Return the cells of models as students and as teachers, at their default sizes."""
    names = list(dict.fromkeys(cell.model for cell in cells_of(only)))
    return [Cell(name, "student", "FullCE", small=False) for name in names], [
        Cell(name, "teacher", "CE", small=False) for name in names
    ]


def student_step(cell: Cell, folder: Path) -> Outcome:
    """Run a plain step, a step under FullCE and an evaluation batch of a student in this process."""
    started = time.perf_counter()
    try:
        state, said = TRAINED, _steps(cell, folder)
    except KDError as error:
        state, said = REFUSED, " ".join(str(error).split())
    except Exception as error:
        state, said = FAULT, fault_words(error)
    return Outcome(state, said, time.perf_counter() - started)


def _steps(cell: Cell, folder: Path) -> str:
    """Make the steps of a student and return their size in words."""
    config = _config_of(cell, folder)
    splits = split_data(config)
    parts = stage_parts(config, splits.parts)
    model = fresh_model(config, parts[0])
    accelerate_on_cpu(model, softmax_of(model))
    loaders = make_loaders(config, splits, parts)
    _plain_step(model, loaders.train)
    if not ranks_whole_catalogue(type(model)):
        config = _config_of(cell, folder, train_batch_size=PAIR_BATCH)
        loaders = make_loaders(config, splits, stage_parts(config, splits.parts))
    teacher = random_teacher(splits.n_users + 1, splits.n_items + 1, TEACHER_WIDTH)
    values = {**config.final_config_dict, "kd": cell.kd, "kd_weight": 1.0}
    trainer = KDTrainer(config, model, build_distiller(values, model, teacher, loaders.train))
    trainer.prepare(loaders.train)
    _distilled_step(trainer, loaders.train)
    _evaluate_a_batch(trainer, loaders.valid)
    return f"{config['train_batch_size']} rows a step of {cell.kd}"


def _config_of(cell: Cell, folder: Path, **given: int) -> Any:
    values = {**cell.values(folder), **given}
    return make_request(merge_sources(None, None, values)).student_config()[0]


def _plain_step(model: Any, train: Any) -> None:
    model.train()
    loss = model.calculate_loss(next(iter(batches_of(train))))
    (torch.stack(loss).sum() if isinstance(loss, tuple) else loss).backward()
    model.zero_grad()


def _distilled_step(trainer: KDTrainer, train: Any) -> None:
    """Let the trainer make one step, by ending its epoch after it."""

    class _OneStepError(Exception):
        pass

    def stop(*_: object) -> None:
        raise _OneStepError

    trainer.optimizer.register_step_post_hook(stop)
    with suppress(_OneStepError):
        trainer._train_epoch(train, 0)


def _evaluate_a_batch(trainer: KDTrainer, valid: Any) -> None:
    trainer.tot_item_num = N_ITEMS + 1
    trainer.model.eval()
    with torch.no_grad():
        trainer._full_sort_batch_eval(next(iter(valid)))


def run_memory(only: Iterable[str], record: Path, seconds: float | None = None) -> dict[str, Outcome]:
    """Run the models that a record lacks: each as a student, or as a teacher if it can be none.

    Args:
        only: names of models; empty for all.
        record: JSON file, cell -> outcome; an interrupted command continues from it.
        seconds: begin no model after so long; None has no limit.
    """
    students, teachers = cells(only)
    with tempfile.TemporaryDirectory(prefix="recbole-kd-memory-") as name:
        folder = Path(name)
        write_data(folder, N_USERS, N_ITEMS, COLOURS)
        steps = {cell.key: partial(student_step, cell, folder) for cell in students}
        found = run_cells(steps, folder, record, seconds, SECONDS)
        refused = {cell.model for cell in students if cell.key in found and found[cell.key].state == REFUSED}
        runs = {cell.key: partial(outcome_of, cell, folder) for cell in teachers if cell.model in refused}
        return run_cells(runs, folder, record, seconds, SECONDS)


def memory_table(found: Mapping[str, Outcome]) -> str:
    """Return the peaks as Markdown, the largest first, without the models that are refused in a sentence."""
    measured = {key: outcome for key, outcome in found.items() if outcome.state != REFUSED}
    order = sorted(measured, key=lambda key: -measured[key].peak_mb)
    rows = [(*key.split(), f"{measured[key].peak_mb:,.0f}", measured[key].state, measured[key].said) for key in order]
    return tabulate(rows, ("model", "role", "method", "peak, MiB", "state", ""), tablefmt="github")
