"""RecBole's training batches without its loops over rows, bit by bit.

The random numbers are the same. RecBole's loader makes a list of Python numbers of each batch and looks up each
negative in a Python set: together a third of the time of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from recbole.data.dataloader.general_dataloader import TrainDataLoader
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.sampler import Sampler
from torch import Tensor
from torch.utils.data import BatchSampler, RandomSampler

from recbole_kd.data.histories.ordered_dataset import OneRowPerUser

_used: WeakKeyDictionary[Sampler, tuple[np.ndarray, np.ndarray]] = WeakKeyDictionary()
"""Items that each sampler must not draw: its array of sets, and the same pairs as numbers."""


class TrainBatches:
    """A training loader that iterates by :func:`batches_of`; all else is RecBole's."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Interaction]:
        return batches_of(self.loader)


def batches_of(loader: Any) -> Iterator[Interaction]:
    """Yield the batches of a training loader.

    A loader of another class than RecBole's plain one, or with worker processes, iterates by itself.
    """
    with dynamic_negatives_of_a_gpu(loader):
        yield from _batches_of(loader)


def _batches_of(loader: Any) -> Iterator[Interaction]:
    batches = iter(loader)
    indices = getattr(batches, "_sampler_iter", None)  # an attribute of torch's iterator without workers
    if type(loader) is not TrainDataLoader or loader.num_workers or indices is None:
        yield from batches
        return
    with quick_negatives(loader._sampler):
        for index in _index_batches(loader, indices):
            yield _rows_of(loader, index)


def _index_batches(loader: Any, indices: Iterator[Any]) -> Iterator[Any]:
    """Yield the row numbers of each batch: a slice of one array instead of a list of Python numbers.

    ``indices`` are those of torch's samplers; samplers of other kinds are asked themselves.
    """
    sampler, batches = loader.sampler, loader.batch_sampler
    plain = type(sampler) is RandomSampler and not sampler.replacement and sampler.generator is not None
    if (
        not plain
        or type(batches) is not BatchSampler
        or batches.drop_last
        or sampler.num_samples != len(sampler.data_source)
    ):
        yield from indices
        return
    order = torch.randperm(sampler.num_samples, generator=sampler.generator)
    yield from order.split(batches.batch_size)
    torch.randperm(sampler.num_samples, generator=sampler.generator)  # torch's sampler draws once more at its end


def _rows_of(loader: Any, index: Any) -> Interaction:
    """Return ``loader.collate_fn(index)``; RecBole indexes every column by a list of Python numbers."""
    dataset = loader._dataset
    reads = type(dataset).__getitem__
    plain = reads in (Dataset.__getitem__, OneRowPerUser.__getitem__) and type(dataset.inter_feat) is Interaction
    if not isinstance(index, Tensor) or not plain:  # histories are made when rows are read
        return loader.collate_fn(index)
    if reads is OneRowPerUser.__getitem__ and dataset.user_rows is not None:
        index = dataset.user_rows[index]
    rows = Interaction({name: column[index] for name, column in dataset.inter_feat.interaction.items()})
    return loader._neg_sampling(loader.transform(dataset, dataset.join(rows)))


class _ScoresOnCpu:
    """The methods of a model that choose dynamic negatives, with scores on the CPU."""

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
    """Make ``train_neg_sample_args: {dynamic: True}`` work for a model on a GPU.

    RecBole indexes a CPU table of the hardest candidates with a tensor on the model's device, which torch refuses
    (``AbstractDataLoader._neg_sampling``).
    """
    model = getattr(loader, "model", None)  # set by get_model(), for dynamic negatives only
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
    """Make RecBole's sampler of negatives look up a whole batch at once.

    A sampler of another class is left unchanged.
    """
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
        """Draw as :meth:`recbole.sampler.AbstractSampler.sample_by_key_ids` does."""
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
    """Return the pairs that must not be drawn, int64 ``[N + 1]``, ascending, then -1.

    A pair is stored as the number user * item_num + item.
    """
    known = _used.get(sampler)
    if known is None or known[0] is not sampler.used_ids:
        pairs = [user * sampler.item_num + item for user, items in enumerate(sampler.used_ids) for item in items]
        known = _used[sampler] = sampler.used_ids, np.append(np.sort(np.array(pairs, dtype=np.int64)), -1)
    return known[1]
