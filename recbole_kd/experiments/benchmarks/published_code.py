"""Published code from a user's folder, timed in turn with ours, on the same data in one process.

Importing from the folder runs its code. Nothing of it is part of this project.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count, islice
from pathlib import Path
from statistics import median
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from recbole_kd.experiments.benchmarks.cases import Case, build
from recbole_kd.experiments.benchmarks.made_data import read_teacher
from recbole_kd.experiments.benchmarks.peer_settings import BACKBONE, PEERS, ROWS, published_settings
from recbole_kd.experiments.benchmarks.timed_steps import Seconds, clocks, seconds_of_epoch, since, steps_of

UNUSED = ("mlflow",)
"""Packages that the published code imports and uses only for its log."""


@dataclass(frozen=True)
class Side:
    """One of the two trainings that are timed in turn.

    Attributes:
        epoch: trains the epoch of a number. steps: the same step by step, with the seconds of each.
        n_steps: steps of an epoch.
    """

    epoch: Callable[[int], Any]
    steps: Callable[[int], Iterator[Seconds]]
    n_steps: int


def time_beside(folder: str, case: Case, repeats: int, steps: int = 0) -> dict[str, Any]:
    """Time epochs of a method, published and ours, in turn.

    Args:
        folder: the user's folder with the published code.
        case: our run; its options are complete.
        repeats: timed epochs, after a warm-up epoch. 0 times one first epoch.
        steps: if not 0, no whole epoch is timed, but the beginning of a second one with its first step and so many
            later steps, after a first beginning and step. Their mean stands for each later step of the epoch.

    Returns:
        ``published_`` and ``our_`` seconds and CPU seconds per epoch (medians, or scaled from steps), and of the
        preparation. If the published code fails, ``error`` says so, and only ours is timed.
    """
    started = perf_counter()
    trainer, loaders = build(case)
    row: dict[str, Any] = {"our_preparation_seconds": perf_counter() - started, "threads": torch.get_num_threads()}
    ours = Side(
        lambda epoch: trainer._train_epoch(loaders.train, epoch),
        lambda epoch: steps_of(epoch, trainer, loaders),
        len(loaders.train),
    )
    timed = partial(_by_steps, steps=steps) if steps else partial(_in_turn, repeats=repeats)
    started = perf_counter()
    try:
        published = Published(Path(folder), case, trainer, loaders)
        row["published_preparation_seconds"] = perf_counter() - started
        theirs = Side(published.epoch, published.steps, len(published.batches))
        times = timed({"our": ours, "published": theirs})
    except Exception as error:  # whatever the code of the folder raises
        row["error"] = f"{type(error).__name__}: {error}"
        times = timed({"our": ours})
    for name, (wall, cpu) in times.items():
        row |= {f"{name}_seconds_per_epoch": wall, f"{name}_cpu_seconds_per_epoch": cpu}
    return row


def _in_turn(sides: Mapping[str, Side], repeats: int) -> dict[str, Seconds]:
    """Return the median seconds of an epoch of each side."""
    times: dict[str, list[Seconds]] = {name: [] for name in sides}
    for epoch in range(repeats + 1):
        for name, side in sides.items():
            started = clocks()
            side.epoch(epoch)
            times[name].append(since(started))
    counted = {name: found[min(1, repeats) :] for name, found in times.items()}
    return {name: (median(w for w, _ in found), median(c for _, c in found)) for name, found in counted.items()}


def _by_steps(sides: Mapping[str, Side], steps: int) -> dict[str, Seconds]:
    """Return the seconds of an epoch of each side, scaled from its beginning and some steps."""
    for side in sides.values():
        next(side.steps(0))
    running = {name: side.steps(1) for name, side in sides.items()}
    found: dict[str, list[Seconds]] = {name: [] for name in sides}
    for _ in range(1 + steps):
        for name, seconds in running.items():
            found[name].append(next(seconds))
    return {name: seconds_of_epoch(found[name], side.n_steps) for name, side in sides.items()}


class Published:
    """A method of the published code, with the data, teacher and first student of our run.

    Args:
        folder: the user's folder.
        case: our run.
        trainer: our trainer before its first epoch.
        loaders: its loaders.

    Raises:
        Exception: any that the code of the folder raises.
    """

    def __init__(self, folder: Path, case: Case, trainer: Any, loaders: Any) -> None:
        assert case.kd is not None
        self.device = trainer.device
        code = _Code(folder, self.device)
        args = Namespace(dataset=case.made.name, **published_settings(case.kd, case.options))
        self.rows = _rows(code, args.dataset, loaders)
        vectors = read_teacher(case.made)
        teacher = self._network(code, args, *vectors.embeddings())
        student = self._network(code, args, *(weight.detach() for weight in _tables(trainer.model)))
        if case.kd == "HetComp":
            _write_trajectory(args, teacher, [side.embeddings() for side in vectors.earlier()])
        if case.kd == "UnKD":
            # Its grouping counts tensors as keys, and its teacher's call has an argument that no backbone takes.
            self.rows.train_pairs = self.rows.train_pairs.numpy()
            plain = teacher.forward_multi_items
            teacher.forward_multi_items = lambda users, items, *_: plain(users, items)
        self.method = code.method(PEERS[case.kd].name)(args, teacher, student).to(self.device)
        self.batches = DataLoader(self.rows, batch_size=args.batch_size, shuffle=True)
        self.optimizer = torch.optim.Adam(self.method.get_params_to_update())

    def _network(self, code: _Code, args: Namespace, users: Tensor, items: Tensor) -> Any:
        """Return a matrix factorisation of the published code with these vectors, without the pad row."""
        sizes = Namespace(**vars(args), embedding_dim=users.shape[1], init_std=0.01)
        network = code.backbone(self.rows, sizes).to(self.device)
        network.load_state_dict({"user_emb.weight": users[1:], "item_emb.weight": items[1:]})
        return network

    def epoch(self, number: int) -> None:
        """Train one epoch: negatives, the method's own preparation, then every batch."""
        for _ in islice(self._steps(number), len(self.batches)):
            pass

    def steps(self, number: int) -> Iterator[Seconds]:
        """Train step by step, the batches of an epoch again and again.

        Yield the seconds of each step; those of the first include the beginning of the epoch.
        """
        started = clocks()
        for _ in self._steps(number):
            yield since(started)
            started = clocks()

    def _steps(self, number: int) -> Iterator[None]:
        """Begin an epoch and yield after each step, without a clock, which would wait for a GPU."""
        self.rows.negative_sampling()
        self.method.do_something_in_each_epoch(number)
        self.method.train()
        for _ in count():
            for batch in self.batches:
                loss = self.method(*(part.to(self.device) for part in batch))[0]
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                yield


class _Code:
    """The modules of the folder, imported without a compiled copy being written into it."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        sys.dont_write_bytecode = True
        for name in UNUSED:
            _stand_in(name)
        if not hasattr(np, "in1d"):  # newer versions of numpy have only the other name
            np.in1d = np.isin  # type: ignore[attr-defined]
        if device.type == "cpu":  # the published code moves everything to a GPU
            torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
            torch.nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
        sys.path.insert(0, str(folder))
        try:
            self.rows = getattr(import_module("dataset"), ROWS)
            self.backbone = getattr(import_module("modeling.backbone"), BACKBONE)
            self._methods = import_module("modeling.KD")
        finally:
            sys.path.remove(str(folder))

    def method(self, name: str) -> Any:
        return getattr(self._methods, name)


def _stand_in(name: str) -> None:
    """Put an empty module in the place of a package that is not installed."""
    try:
        import_module(name)
    except ModuleNotFoundError:
        sys.modules[name] = ModuleType(name)


def _rows(code: _Code, dataset: str, loaders: Any) -> Any:
    """Return the published dataset over our training rows, ids from 0."""
    ours = loaders.train._dataset
    users, items = (np.asarray(ours.inter_feat[name]) - 1 for name in (ours.uid_field, ours.iid_field))
    n_users, n_items = ours.user_num - 1, ours.item_num - 1
    pairs = torch.from_numpy(np.stack([users, items], axis=1))
    matrix = torch.sparse_coo_tensor(
        pairs.T, torch.ones(len(pairs), dtype=torch.int), (n_users, n_items), check_invariants=True
    )
    order, counts = np.argsort(users, kind="stable"), np.bincount(users, minlength=n_users)
    by_user = dict(enumerate(torch.from_numpy(items[order]).split(counts.tolist())))
    popularity = torch.from_numpy(counts), torch.from_numpy(np.bincount(items, minlength=n_items))
    return code.rows(dataset, n_users, n_items, pairs, matrix, by_user, *popularity, 1)


def _tables(model: Any) -> tuple[Tensor, Tensor]:
    """Return the user and item vectors of our MF student."""
    return model.user_embedding.weight, model.item_embedding.weight


def _write_trajectory(args: Namespace, teacher: Any, earlier: list[tuple[Tensor, Tensor]]) -> None:
    """Write a teacher's checkpoints where HetComp looks for them, in the current folder.

    That folder is a temporary one.
    """
    place = Path("checkpoints", args.dataset, args.T_backbone, f"scratch-{teacher.embedding_dim}")
    os.makedirs(place)
    for number, (users, items) in enumerate(earlier, 1):
        state = {"user_emb.weight": users[1:].clone(), "item_emb.weight": items[1:].clone()}
        torch.save(state, place / f"EPOCH_{number}.pt")
    torch.save(teacher.state_dict(), place / "BEST_EPOCH.pt")
