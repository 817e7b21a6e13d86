"""Training steps of a wide LightGCN: RecBole's own and ours in turn, in one process."""

from __future__ import annotations

import os
import tempfile
from itertools import chain, count, islice
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from recbole_kd.experiments.benchmarks.cases import ALONE, Case, build
from recbole_kd.experiments.benchmarks.made_data import write_dataset
from recbole_kd.experiments.benchmarks.own_process import in_own_process
from recbole_kd.storage.files import write_json

MODEL = "LightGCN"


def one_step(trainer: Any, batch: Any) -> dict[str, float]:
    """Train on a batch and return its loss with the elapsed and the processor's seconds."""
    started, worked = perf_counter(), process_time()
    trainer.model.train()
    trainer.optimizer.zero_grad()
    loss = trainer.model.calculate_loss(batch)
    loss.backward()
    trainer.optimizer.step()
    return {"loss": float(loss.detach()), "elapsed": perf_counter() - started, "cpu": process_time() - worked}


def time_wide(size: str, folder: str, width: int, steps: int) -> dict[str, Any]:
    """Return seconds per step of both trainers, and the largest difference of their losses.

    Both start from the same weights and train on the same batches. The first step is not timed.
    """
    ours, loaders = build(Case(MODEL, ALONE, size, folder, width))
    theirs, _ = build(Case(MODEL, None, size, folder, width))
    theirs.model.load_state_dict(ours.model.state_dict())
    found: list[list[dict[str, float]]] = [
        [one_step(trainer, batch) for trainer in (ours, theirs)]
        for batch in islice(chain.from_iterable(loaders.train for _ in count()), steps + 1)  # epoch after epoch
    ]
    counted = found[1:] or found
    seconds = {
        f"{name}_{clock}_seconds_per_step": median(pair[which][clock] for pair in counted)
        for which, name in enumerate(("our", "recbole"))
        for clock in ("elapsed", "cpu")
    }
    return {
        "steps": len(counted),
        "steps_of_an_epoch": len(loaders.train),
        **seconds,
        "elapsed_ratio": median(theirs["elapsed"] / ours["elapsed"] for ours, theirs in counted),
        "cpu_ratio": median(theirs["cpu"] / ours["cpu"] for ours, theirs in counted),
        "largest_difference_of_loss": max(abs(ours["loss"] - theirs["loss"]) for ours, theirs in found),
    }


def report_wide(size: str, width: int, steps: int, output: Path | None) -> None:
    """Time a wide LightGCN on synthetic data, print the figures, and write them as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(size, Path(folder))
        job = {"what": "wide", "size": size, "folder": folder, "width": width, "steps": steps}
        found = {"size": size, "width": width, "cores": os.cpu_count(), **in_own_process(job)}
    print("\n".join(f"{name:<34} {value}" for name, value in found.items()))
    if output is not None:
        write_json(output, found)
