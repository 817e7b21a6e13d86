"""Caches of vectors and scores, for one training step or for a frozen model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """A training batch with its queries in sorted order.

    Attributes:
        interaction: the rows.
        ids: the sorted queries, int64 ``[B]``.
        order: the row of each, int64 ``[B]``.
    """

    interaction: Interaction
    ids: Tensor
    order: Tensor

    @classmethod
    def of(cls, interaction: Interaction, field: str) -> Batch:
        """Build a batch from the column that holds its queries."""
        return cls(interaction, *interaction[field].sort(stable=True))

    def positions(self, queries: Tensor) -> Tensor | None:
        """Return the rows of some queries, int64 ``[n]``, or None if one is not in the batch."""
        if len(self.ids) == 0:
            return None
        at = torch.searchsorted(self.ids, queries).clamp(max=len(self.ids) - 1)
        return self.order[at] if torch.equal(self.ids[at], queries) else None


@dataclass
class VectorCache:
    """Vectors that a Scorer has computed since the cache was opened.

    Attributes:
        tables: vectors of all queries and of all items.
        items: vectors of all items.
    """

    tables: tuple[Tensor, Tensor] | None = None
    items: Tensor | None = None


@dataclass
class StepCache(VectorCache):
    """The results that base loss and KD loss of one training step share.

    Attributes:
        batch: the step's queries, if the model encodes them from the batch.
        logits: float ``[B, n_items]``, the scores that the base loss gives to its softmax over all items.
    """

    batch: Batch | None = None
    logits: Tensor | None = None

    def keep_logits(self, n_items: int, logits: Tensor) -> None:
        """Keep the scores of the batch at all items, unless they are in half precision."""
        assert self.batch is not None
        if logits.shape == (len(self.batch.ids), n_items) and logits.dtype in (torch.float32, torch.float64):
            self.logits = logits

    @contextmanager
    def logits_of(self, softmax: nn.Module | None, n_items: int) -> Iterator[None]:
        """Capture the argument of the softmax during a block."""
        if self.batch is None or softmax is None:
            yield
            return
        hook = softmax.register_forward_pre_hook(lambda _, given: self.keep_logits(n_items, given[0]))
        try:
            yield
        finally:
            hook.remove()


@contextmanager
def encoded_once(
    model: nn.Module, method: str | None, unless: Callable[[], bool], asked: Callable[[], bool]
) -> Iterator[None]:
    """Share the results of one method between the model's own loss and the scorer.

    Results are found by the arguments of the call.

    Args:
        model: the model.
        method: name of the method. None changes nothing.
        unless: calls are not cached while it returns True.
        asked: whether the scorer calls, and not the model's own loss.
    """
    if method is None:
        yield
        return
    own = model.__dict__.get(method)
    setattr(model, method, remembered(getattr(model, method), unless, asked))
    try:
        yield
    finally:
        delattr(model, method)
        if own is not None:
            setattr(model, method, own)


@dataclass
class _Result:
    """A result of a method; its arguments are kept too, because the id of a dead object is reused."""

    arguments: tuple[object, ...]
    value: object
    of_loss: bool


def remembered(
    plain: Callable[..., object], unless: Callable[[], bool], asked: Callable[[], bool]
) -> Callable[..., object]:
    """Return a cached version of ``plain`` that calls it again if the loss repeats a call.

    A loss that encodes the same rows twice wants two encodings with two dropout masks (FEARec's contrastive loss): its
    second call is never answered with the first one's result. The scorer gets the first one.

    Args:
        plain: the function.
        unless: calls are not cached while it returns True.
        asked: whether the scorer calls, and not the model's own loss.
    """
    memo: dict[tuple[int, ...], _Result] = {}

    def call(*args: object) -> object:
        if unless():
            return plain(*args)
        key, of_loss = tuple(id(a) for a in args), not asked()
        known = memo.get(key)
        if known is None:
            known = memo[key] = _Result(args, plain(*args), of_loss)
        elif of_loss and known.of_loss:
            return plain(*args)
        known.of_loss |= of_loss
        return known.value

    return call
