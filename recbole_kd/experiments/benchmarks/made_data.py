"""Synthetic data and teachers for the benchmarks, in public or free sizes.

The popularity of items has a long tail.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_kd.errors import ConfigError
from recbole_kd.storage.files import read_tensors
from recbole_kd.teacher.block_writer import Layout, write_blocks
from recbole_kd.teacher.stores.factors import FactorScores

Counts = tuple[int, int, tuple[int, int, int]]

SIZES: dict[str, Counts] = {
    "small": (1000, 4000, (16000, 1000, 1000)),
    "ml-100k": (943, 1682, (80000, 10000, 10000)),
    "citeulike": (5219, 25181, (98405, 12451, 14724)),
    "gowalla": (29858, 40981, (720561, 89567, 217242)),
}
"""users, items, (train, validation, test) interactions."""

WIDTHS = {"citeulike": 400, "gowalla": 2000}
"""Default width of the teacher's vectors."""

OTHER_WIDTH = 400
LARGE_WIDTH = 64
LARGE = 200_000
"""From this number of users or items on, the default width of a teacher is LARGE_WIDTH."""

EVALUATED_SCORES = 2 * 10**9
"""Maximum number of user-item scores that an evaluation of a free size ranks."""

TABLES = ("query_vectors", "item_vectors")
TEACHER_BLOCK = 8192
LARGEST = 1_000_000


def counts_of(size: str) -> Counts:
    """Return users, items and (train, validation, test) interactions of a size.

    Args:
        size: a name, or ``USERSxITEMSxINTERACTIONS`` such as 1e6x1e6x1e6.

    Raises:
        ConfigError: one sentence with the allowed values.
    """
    if size in SIZES:
        return SIZES[size]
    words = size.split("x")
    if len(words) != 3 or not all(re.fullmatch(r"\d+(e\d+)?", word) for word in words):
        raise ConfigError(
            f"--size={size} is not known: take {', '.join(SIZES)}, or USERSxITEMSxINTERACTIONS such as 1e6x1e6x1e6"
        )
    n_users, n_items, count = (int(float(word)) for word in words)
    if not (2 <= n_users <= LARGEST and 2 <= n_items <= LARGEST):
        raise ConfigError(f"--size={size} is not possible: expected 2 to {LARGEST} users and items")
    evaluated = max(2, min(count // 10, EVALUATED_SCORES // n_items, n_users))
    least = max(n_users, n_items) - 2 * evaluated
    if count < least or count + 2 * evaluated > n_users * n_items // 2:
        raise ConfigError(
            f"--size={size} is not possible: every user and item occurs at least once, so take {least} to "
            f"{n_users * n_items // 2 - 2 * evaluated} interactions"
        )
    return n_users, n_items, (count, evaluated, evaluated)


def width_of(size: str, given: int | None) -> int:
    """Return the width of the teacher: the one given, else the default of the size."""
    if given:
        return given
    n_users, n_items, _ = counts_of(size)
    return WIDTHS.get(size, LARGE_WIDTH if max(n_users, n_items) >= LARGE else OTHER_WIDTH)


def make_pairs(n_users: int, n_items: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return distinct user-item pairs, int64 ``[count, 2]``.

    Every user and item occurs at least once. Activity and popularity have long tails.
    """
    activity = rng.lognormal(sigma=1.0, size=n_users)
    popularity = 1.0 / (np.arange(n_items) + 20.0) ** 0.8
    if n_users + n_items <= count:
        users = np.concatenate([rng.integers(0, n_users, n_items), np.arange(n_users)])
        items = np.concatenate([np.arange(n_items), rng.integers(0, n_items, n_users)])
    else:  # one pair covers a user and an item
        most = max(n_users, n_items)
        users, items = rng.permutation(most) % n_users, rng.permutation(most) % n_items
    keys = np.unique(users * n_items + items)
    while len(keys) < count:
        users = rng.choice(n_users, size=count, p=activity / activity.sum())
        items = rng.choice(n_items, size=count, p=popularity / popularity.sum())
        fresh = np.setdiff1d(users * n_items + items, keys)
        keys = np.concatenate([keys, rng.permutation(fresh)[: count - len(keys)]])
    keys = rng.permutation(keys)
    return np.stack([keys // n_items, keys % n_items], axis=1)


@dataclass(frozen=True)
class Made:
    """A synthetic data set in a folder, with its teacher.

    Attributes:
        name: name of the data set.
        size: the size as given.
        folder: folder of the atomic files.
    """

    name: str
    size: str
    folder: Path

    def vectors(self, name: str) -> Path:
        """Return the file of the teacher's query or item vectors."""
        return self.folder / self.name / f"{name}.safetensors"


def write_dataset(size: str, folder: Path, whole: bool = False) -> Made:
    """Write the atomic files of a synthetic data set, already split.

    With ``whole`` it is also written as one file, under NAME-whole.
    """
    n_users, n_items, counts = counts_of(size)
    made = Made(f"made-{size}", size, folder)
    pairs = make_pairs(n_users, n_items, sum(counts), np.random.default_rng(0))
    parts = dict(zip(("train", "valid", "test"), np.split(pairs, np.cumsum(counts)[:-1]), strict=True))
    for part, rows in parts.items():
        _write_rows(rows, folder / made.name / f"{made.name}.{part}.inter")
    if whole:
        _write_rows(pairs, folder / f"{made.name}-whole" / f"{made.name}-whole.inter")
    return made


def _write_rows(rows: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as handle:
        handle.write("user_id:token\titem_id:token\n")
        np.savetxt(handle, rows, fmt="%d", delimiter="\t")


def write_teacher(made: Made, width: int) -> None:
    """Write random vectors as a teacher's factor store, block by block.

    Raises:
        ConfigError: the disk does not have enough space.
    """
    n_users, n_items, _ = counts_of(made.size)
    needed = 4 * width * (n_users + n_items + 2)
    if shutil.disk_usage(made.folder).free < needed:
        raise ConfigError(
            f"--teacher_width={width} needs {needed / 2**30:.1f} GiB in {made.folder}: take a smaller one, or set "
            "TMPDIR"
        )
    generator = torch.Generator().manual_seed(1)
    for name, n_rows in zip(TABLES, (n_users + 1, n_items + 1), strict=True):
        layout = Layout({name: (torch.float32, width)}, n_rows, TEACHER_BLOCK)

        def rows(part: slice, name: str = name) -> dict[str, torch.Tensor]:
            return {name: 0.1 * torch.randn(part.stop - part.start, width, generator=generator)}

        write_blocks(made.vectors(name), layout, rows)


def read_teacher(made: Made) -> Any:
    """Return the written teacher, memory-mapped.

    It has two earlier checkpoints, a modality and a teacher of its own.
    """
    users, items = (read_tensors(made.vectors(name))[name] for name in TABLES)
    teacher = FactorScores(users, items)
    teacher.earlier = lambda: [
        FactorScores(users * share, items.roll(1, 1) * (1 - share) + items) for share in (0.3, 0.6)
    ]
    teacher.modalities = {"made": FactorScores(users, items.roll(1, 1))}
    teacher.taught_by = FactorScores(users.roll(1, 1), items)
    return teacher


def random_teacher(n_users: int, n_items: int, width: int = OTHER_WIDTH) -> Any:
    """Return a random factor teacher in memory. The sizes include the pad."""
    generator = torch.Generator().manual_seed(1)
    users, items = (torch.randn(n, width, generator=generator) * 0.1 for n in (n_users, n_items))
    return FactorScores(users, items)
