"""A process of its own that trains HSTU on long made histories and prints its peak memory.

Started by test_hstu_memory.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_kd.evaluation.efficiency import peak_rss_mb
from recbole_kd.teacher.stores.factors import FactorScores
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import TinyData, build_case, dataset_of

METHOD = {"kd": "RCEKD", "kd_k": 50, "kd_n_samples": 50, "kd_candidates": 200, "seed": 0, "dataset": "long"}


def write_long(folder: Path, n_users: int, n_items: int, length: int) -> TinyData:
    """Users of ``length`` training items each, one for validation and one for test; every item is somebody's."""
    users, steps = np.repeat(np.arange(n_users), length + 2), np.tile(np.arange(length + 2), n_users)
    items = np.random.default_rng(0).permutation(n_items)[(users * (length + 2) + steps) % n_items]
    times = 1_000_000_000 + 40_000 * steps + (steps * steps * (users + 1)) % 30_000
    (folder / "long").mkdir(parents=True)
    with open(folder / "long" / "long.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        np.savetxt(file, np.stack([users, items, times], axis=1), fmt="%d", delimiter="\t")
    return TinyData(str(folder), "long")


def train(folder: Path, n_users: int, n_items: int, distil: bool, sizes: dict[str, Any]) -> dict[str, float]:
    """One epoch, evaluation left out."""
    data = write_long(folder, n_users, n_items, sizes["MAX_ITEM_LIST_LENGTH"])
    case = build_case(data, "HSTU", **sizes)
    before = peak_rss_mb()
    distiller = None
    if distil:
        generator = torch.Generator().manual_seed(0)
        tables = [torch.randn(n + 1, 64, generator=generator) for n in (case.splits.n_users, case.splits.n_items)]
        distiller = build_distiller(
            {**METHOD, "model": "HSTU"}, case.model, FactorScores(*tables, {"model": "MF"}), case.loaders.train
        )
    trainer = KDTrainer(case.config, case.model, distiller)
    trainer.prepare(case.loaders.train)
    loss = trainer._train_epoch(case.loaders.train, 0)
    lengths = dataset_of(case.loaders.train).inter_feat["item_length"]
    return {
        "before_mb": before,
        "peak_mb": peak_rss_mb(),
        "loss": float(sum(loss) if isinstance(loss, tuple) else loss),
        "steps": len(case.loaders.train),
        "longest": int(lengths.max()),
        "items": case.splits.n_items,
        "seconds": trainer.epoch_seconds[0],
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(train(Path(given.pop("folder")), **given)))
