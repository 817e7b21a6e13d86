"""A small grid's file, and results of grids that nobody ran, for what is made from them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import yaml

from recbole_kd.cli.program import run_verb
from recbole_kd.experiments.grid import Grid, Task

reproduce = partial(run_verb, "reproduce")
"""The verb, as its script calls it."""

TINY = {
    "model": "MF", "teacher": "MF", "kd": "RCEKD", "dataset": "tiny", "epochs": 2, "train_batch_size": 128, "kd_k": 5,
    "kd_n_samples": 5,
    "kd_candidates": 10, "teacher_config": {"epochs": 1, "embedding_size": 8},
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"order": "TO"}, "eval_protocol": "paper", "kd_track": ["train_ndcg", "teacher_ranks"],
}  # fmt: skip


def write_grid(folder: Path, **changes: Any) -> Path:
    content = {
        "title": "Tiny",
        "config": TINY,
        "seeds": [0, 1],
        "runs": {"RCE-KD": {}, "vanilla CE": {"kd_variant": "vanilla_ce", "seeds": [0]}},
    }
    path = folder / "tiny-grid.yaml"
    path.write_text(yaml.safe_dump({**content, "reference": "RCE-KD", **changes}, sort_keys=False))
    return path


def figures(value: float) -> dict[str, Any]:
    metrics = {f"{m}@{k}": value for m in ("recall", "ndcg") for k in (10, 20)}
    return {"valid": metrics, "test": metrics, "epochs": 3, "seconds_per_epoch": 0.5}


def made_up(teacher: float, alone: float, distilled: float) -> dict[str, Any]:
    sides = {"teacher": figures(teacher), "student": figures(alone), "distilled": figures(distilled)}
    return {**sides, "versions": {"commit": "abc"}, "command": "python scripts/reproduce.py x"}


def grid_of(*runs: str, seeds: tuple[int, ...] = (0, 1), **more: Any) -> Grid:
    return Grid("g", "G", [Task("g", run, seed, {"seed": seed}) for run in runs for seed in seeds], **more)
