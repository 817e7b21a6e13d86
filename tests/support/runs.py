"""Whole runs of the public command on a tiny data set."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from recbole_kd.cli.run import main
from recbole_kd.distributed.ray_cluster import own_devices
from recbole_kd.training.trainer import KDTrainer
from recbole_kd.tuning.study import run_trial
from tests.support.helpers import write_tiny

SHORT = [
    "--epochs=3",
    "--teacher.epochs=2",
    "--teacher.embedding_size=8",
    "--embedding_size=4",
    "--train_batch_size=128",
    "--show_progress=False",
    "--kd_k=5",
    "--kd_n_samples=5",
    "--kd_candidates=10",
    "--eval_args.order=TO",
    "--load_col={inter: [user_id, item_id, timestamp]}",
]


def words(folder: Path, **changes: str | None) -> list[str]:
    """The main job on the tiny data set (made where it is not there), with some keys set or (None) left out.

    Without another weight it has the general default: no search of several trainings.
    """
    if (changes.get("epochs") or "3") not in ("0", "1", "2", "3"):  # shorter trainings are not searched anyway
        changes = {"kd_weight": "default", **changes}
    if not (folder / "data" / "tiny").exists():
        write_tiny(folder / "data", "tiny")
    named = {
        "model": "MF",
        "teacher": "LightGCN",
        "kd": "RCEKD",
        "dataset": "tiny",
        "data_path": str(folder / "data"),
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "saved"),
        **changes,
    }
    given = [f"--{key}={value}" for key, value in named.items() if value is not None]
    keys = {f"--{key}" for key in named}
    return given + [word for word in SHORT if word.split("=")[0] not in keys]


def results(folder: Path) -> list[dict[str, Any]]:
    """The results that runs have left, oldest first."""
    files = sorted((folder / "saved").glob("*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(path.read_text()) | {"folder": path.parent} for path in files]


def run(folder: Path, *more: str, **changes: str | None) -> dict[str, Any]:
    """Run the main job in this process and return its result."""
    assert main([*words(folder, **changes), *more]) == 0
    return results(folder)[-1]


def refusal(capsys: Any, folder: Path, *more: str, **changes: str | None) -> str:
    """The one line with which the main job refuses its arguments."""
    assert main([*words(folder, **changes), *more]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return str(line)


def gpus_of_a_run(base: dict[str, Any]) -> tuple[str, str, str, str]:
    """CUDA_VISIBLE_DEVICES before and after a trial in this worker, what Ray says, and how the trial ended."""
    import ray

    before = os.environ["CUDA_VISIBLE_DEVICES"]
    trial = run_trial({**base, **own_devices()}, {})
    return before, os.environ["CUDA_VISIBLE_DEVICES"], ",".join(map(str, ray.get_gpu_ids())), trial.state


def cut_after(epoch: int, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the which-th training of a run when it validates the given epoch."""
    plain, seen = KDTrainer._valid_epoch, [0]

    def cut(self: KDTrainer, *args: Any, **kwargs: Any) -> Any:
        if self._epoch == 0:
            seen[0] += 1
        if seen[0] == which and self._epoch == epoch:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(KDTrainer, "_valid_epoch", cut)
