"""RecBole's training batches, bit by bit and from the same random numbers, without its loops over rows.

Its loader makes a list of Python numbers of each batch and looks each negative up in a Python set: together a third of
what a batch costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from recbole.data.dataloader.general_dataloader import TrainDataLoader
from recbole.data.interaction import Interaction
from recbole.sampler import Sampler
from torch import Tensor

_used: WeakKeyDictionary[Sampler, tuple[np.ndarray, np.ndarray]] = WeakKeyDictionary()
"""What each sampler must not draw: its array of sets, and the same as numbers."""


class TrainBatches:
    """A training loader whose iteration is :func:`batches_of`; all else is the loader's."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Interaction]:
        return batches_of(self.loader)


def batches_of(loader: Any) -> Iterator[Interaction]:
    """The batches of a training loader; one that is not RecBole's plain one, or has worker processes, iterates by itself."""
    with dynamic_negatives_of_a_gpu(loader):
        yield from _batches_of(loader)


def _batches_of(loader: Any) -> Iterator[Interaction]:
    batches = iter(loader)
    indices = getattr(batches, "_sampler_iter", None)  # torch's, in a loader without workers
    if type(loader) is not TrainDataLoader or loader.num_workers or indices is None:
        yield from batches
        return
    with quick_negatives(loader._sampler):
        for index in indices:
            yield loader.collate_fn(index)


class _ScoresOnCpu:
    """What RecBole asks a model for when it chooses dynamic negatives."""

    def __init__(self, model: Any) -> None:
        self._model, self.device = model, model.device

    def eval(self) -> None:
        self._model.eval()

    def train(self) -> None:
        self._model.train()

    @torch.no_grad()
    def predict(self, interaction: Interaction) -> Tensor:
        scores: Tensor = self._model.predict(interaction).cpu()
        return scores


@contextmanager
def dynamic_negatives_of_a_gpu(loader: Any) -> Iterator[None]:
    """Within it ``train_neg_sample_args: {dynamic: True}`` works for a model on a GPU.

    RecBole looks the hardest candidates up in a table on the CPU by places on the model's device, which torch refuses
    (``AbstractDataLoader._neg_sampling``).
    """
    model = getattr(loader, "model", None)  # get_model() put it there, for dynamic negatives only
    if model is None or torch.device(model.device).type == "cpu":
        yield
        return
    loader.model = _ScoresOnCpu(model)
    try:
        yield
    finally:
        loader.model = model


@contextmanager
def quick_negatives(sampler: Any) -> Iterator[None]:
    """Within it RecBole's sampler of negatives looks a whole batch up at once; another kind of sampler is left as it is."""
    if type(sampler) is not Sampler or "sample_by_key_ids" in vars(sampler):
        yield
        return
    sampler.sample_by_key_ids = _negatives_of(sampler)
    try:
        yield
    finally:
        del sampler.sample_by_key_ids


def _negatives_of(sampler: Sampler) -> Any:
    plain, used = sampler.sample_by_key_ids, _used_pairs(sampler)

    def sample_by_key_ids(key_ids: Any, num: int) -> Tensor:
        """As :meth:`recbole.sampler.AbstractSampler.sample_by_key_ids`."""
        keys = np.array(key_ids)
        if (keys == keys[0]).all():
            negatives: Tensor = plain(keys, num)
            return negatives
        owners, values = np.tile(keys, num), np.zeros(len(keys) * num, dtype=np.int64)
        todo = np.arange(len(owners))
        while len(todo):
            values[todo] = sampler.sampling(len(todo))
            pairs = owners[todo] * sampler.item_num + values[todo]
            todo = todo[used[np.searchsorted(used[:-1], pairs)] == pairs]
        return torch.from_numpy(values)

    return sample_by_key_ids


def _used_pairs(sampler: Sampler) -> np.ndarray:
    """What must not be drawn, as ascending numbers user * item_num + item, with -1 at the end: int64 ``[N + 1]``."""
    known = _used.get(sampler)
    if known is None or known[0] is not sampler.used_ids:
        pairs = [user * sampler.item_num + item for user, items in enumerate(sampler.used_ids) for item in items]
        known = _used[sampler] = sampler.used_ids, np.append(np.sort(np.array(pairs, dtype=np.int64)), -1)
    return known[1]
