"""Vectors and scores that are computed once: for one training step, or for a block of calls on a frozen model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """A training batch: its rows, its queries sorted, int64 ``[B]``, and the row of each, int64 ``[B]``."""

    interaction: Interaction
    ids: Tensor
    order: Tensor

    @classmethod
    def of(cls, interaction: Interaction, field: str) -> Batch:
        """Return the batch whose queries are in a column."""
        return cls(interaction, *interaction[field].sort(stable=True))

    def positions(self, queries: Tensor) -> Tensor | None:
        """Return the rows of some queries, int64 ``[n]``; None if one is not in the batch."""
        if len(self.ids) == 0:
            return None
        at = torch.searchsorted(self.ids, queries).clamp(max=len(self.ids) - 1)
        return self.order[at] if torch.equal(self.ids[at], queries) else None


@dataclass
class VectorCache:
    """Vectors that a Scorer has computed since the cache was opened.

    Attributes:
        tables: of all queries and of all items. items: of all items alone.
    """

    tables: tuple[Tensor, Tensor] | None = None
    items: Tensor | None = None


@dataclass
class StepCache(VectorCache):
    """What base loss and KD loss of one training step share.

    Attributes:
        batch: the step's queries, if the model encodes them from the batch.
        logits: float ``[B, n_items]``, the scores that the base loss hands its softmax over all items.
    """

    batch: Batch | None = None
    logits: Tensor | None = None

    def keep_logits(self, n_items: int, logits: Tensor) -> None:
        """Keep the scores of the batch at all items. In half precision they do not replace products in float32."""
        assert self.batch is not None
        if logits.shape == (len(self.batch.ids), n_items) and logits.dtype in (torch.float32, torch.float64):
            self.logits = logits

    @contextmanager
    def logits_of(self, softmax: nn.Module | None, n_items: int) -> Iterator[None]:
        """Within it, keep what the softmax is called with."""
        if self.batch is None or softmax is None:
            yield
            return
        hook = softmax.register_forward_pre_hook(lambda _, given: self.keep_logits(n_items, given[0]))
        try:
            yield
        finally:
            hook.remove()


@contextmanager
def encoded_once(model: nn.Module, method: str | None, unless: Callable[[], bool]) -> Iterator[None]:
    """Within it, calls of one of the model's methods with the same arguments give the first call's result.

    Args:
        method: name of the method; None changes nothing. unless: while it returns True, calls pass through.
    """
    if method is None:
        yield
        return
    own = model.__dict__.get(method)
    setattr(model, method, remembered(getattr(model, method), unless))
    try:
        yield
    finally:
        delattr(model, method)
        if own is not None:
            setattr(model, method, own)


def remembered(plain: Callable[..., object], unless: Callable[[], bool]) -> Callable[..., object]:
    """Return a function that calls ``plain`` once for the same argument objects.

    Args:
        unless: while it returns True, calls pass through and nothing is remembered.
    """
    memo: dict[tuple[int, ...], tuple[tuple[object, ...], object]] = {}

    def call(*args: object) -> object:
        if unless():
            return plain(*args)
        key = tuple(id(a) for a in args)
        if key not in memo:
            memo[key] = args, plain(*args)  # the arguments are kept: the id of a dead object is given away again
        return memo[key][1]

    return call
