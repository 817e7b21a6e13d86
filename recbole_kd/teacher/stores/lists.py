"""List store: ranked lists of any length, for teachers of which only the best items are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.teacher.base import TeacherScores

UNLISTED = "unlisted"
"""Manifest key of what an item outside a list is: ``floor`` or ``mask``."""
FLOOR, MASK = "floor", "mask"
TENSORS = frozenset({"starts", "items", "scores"})
"""Tensors of a list store on disk."""
CONFIDENCE = "confidence"
"""A further tensor of lists with confidences: float ``[N]``."""


class ListScores(TeacherScores):
    """Scores from ranked lists, with one lower score for all items outside a query's list.

    An item outside the list scores one step below its last item. A step is the mean distance of neighbours in the list,
    or 1 if there is none (one item, or equal scores). A query without a list scores 0 everywhere and is not
    :attr:`covered`.

    With ``unlisted: mask`` in the manifest, methods leave the items outside a list out of every softmax and pair
    (:meth:`counted`); their score is the same.

    Args:
        starts: int64 ``[n_queries + 1]``. Query q has the entries from ``starts[q]`` to ``starts[q + 1]``.
        items: int ``[N]``, the lists, best first, without repetition and without the pad.
        scores: float ``[N]``, finite, not increasing inside a list.
        n_items: size of the catalogue with the pad.
        manifest: the description of the teacher.
        confidence: float ``[N]``, finite, at least 0, of each entry; None if the teacher has none.

    Raises:
        TeacherError: the tensors are not lists of this catalogue.
    """

    store = "lists"
    complete = False

    def __init__(
        self,
        starts: Tensor,
        items: Tensor,
        scores: Tensor,
        n_items: int,
        manifest: Mapping[str, Any] | None = None,
        confidence: Tensor | None = None,
    ) -> None:
        _check(starts, items, scores, n_items)
        _check_confidence(confidence, scores)
        super().__init__(len(starts) - 1, n_items, manifest)
        self.masks = self.manifest.get(UNLISTED, FLOOR) == MASK
        self._starts, self._items, self._scores = starts, items.long(), scores.float()
        self._confidence, self.has_confidence = confidence, confidence is not None
        counts = starts.diff()
        self.covered = counts > 0
        self._floor = _floors(starts, self._scores)
        keys = torch.repeat_interleave(torch.arange(len(counts), device=starts.device), counts) * n_items + self._items
        self._keys, self._order = keys.sort()
        if bool((self._keys[1:] == self._keys[:-1]).any()):
            raise TeacherError("A list names an item twice: import the lists again")

    def lengths(self) -> Tensor:
        """Return the length of each query's list, int64 ``[n_queries]``."""
        return self._starts.diff()

    def popularity(self) -> Tensor:
        """Return in how many lists each item is, int64 ``[n_items]``."""
        return torch.bincount(self._items, minlength=self.n_items)

    def tensors(self) -> dict[str, Tensor]:
        """Return what :func:`lists_from` reads, in the number formats of the file."""
        found = {"starts": self._starts, "items": self._items.int(), "scores": self._scores}
        return found if self._confidence is None else {**found, CONFIDENCE: self._confidence}

    def _on(self, device: torch.device) -> None:
        if self._starts.device != device:
            for name in ("_starts", "_items", "_scores", "_floor", "_keys", "_order"):
                setattr(self, name, getattr(self, name).to(device))
            self._confidence = None if self._confidence is None else self._confidence.to(device)

    @torch.no_grad()
    def full(self, queries: Tensor) -> Tensor:
        self._on(queries.device)
        result = self._floor[queries].unsqueeze(1).repeat(1, self.n_items)
        row, entry = Ragged(self._starts, torch.arange(len(self._items), device=queries.device)).pairs(queries)
        result[row, self._items[entry]] = self._scores[entry]
        return result

    @torch.no_grad()
    def at(self, queries: Tensor, items: Tensor) -> Tensor:
        self._on(queries.device)
        floor = self._floor[queries].unsqueeze(1).expand(items.shape)
        if not len(self._keys):
            return floor.clone()
        place, listed = self._find(queries, items)
        return torch.where(listed, self._scores[self._order[place]], floor)

    def confidence(self, queries: Tensor, items: Tensor) -> Tensor:
        if self._confidence is None or not len(self._keys):
            return super().confidence(queries, items)
        self._on(queries.device)
        place, listed = self._find(queries, items)
        return self._confidence[self._order[place]].masked_fill(~listed, 0.0)

    def counted(self, queries: Tensor, items: Tensor) -> Tensor | None:
        if not self.masks:
            return None
        self._on(queries.device)
        return self._find(queries, items)[1] if len(self._keys) else torch.zeros_like(items, dtype=torch.bool)

    def _find(self, queries: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the place of each item among the sorted keys, and whether it is in its query's list."""
        wanted = queries.unsqueeze(1) * self.n_items + items
        place = torch.searchsorted(self._keys, wanted).clamp_(max=len(self._keys) - 1)
        return place, self._keys[place] == wanted

    def top_k(self, queries: Tensor, k: int, exclude: Ragged | None = None) -> tuple[Tensor, Tensor]:
        """Return the first k items of each list; a shorter list is filled up with id 0 and ``-inf``."""
        return self.first(queries, k, None if exclude is None else exclude.of_rows(queries))

    @torch.no_grad()
    def first(self, queries: Tensor, k: int, exclude: Ragged | None = None) -> tuple[Tensor, Tensor]:
        """Return the first k items of each list, like :meth:`top_k`.

        Args:
            queries: int64 ``[Q]``.
            k: length.
            exclude: items to leave out of each of these lists, by position in ``queries``.
        """
        self._on(queries.device)
        row, entry = Ragged(self._starts, torch.arange(len(self._items), device=queries.device)).pairs(queries)
        if exclude is not None:
            kept = ~exclude.contains(row, self._items[entry].unsqueeze(1)).squeeze(1)
            row, entry = row[kept], entry[kept]
        counts = torch.bincount(row, minlength=len(queries))
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        near = place < k
        row, place, entry = row[near], place[near], entry[near]
        ids = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
        values = torch.full((len(queries), k), -torch.inf, device=queries.device)
        ids[row, place], values[row, place] = self._items[entry], self._scores[entry]
        return ids, values


def lists_from(tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> ListScores:
    """Return the list store of a file's tensors.

    Raises:
        TeacherError: they are not lists of the catalogue that the manifest names.
    """
    parts = (tensors["starts"], tensors["items"], tensors["scores"])
    return ListScores(*parts, manifest["n_items"], manifest, tensors.get(CONFIDENCE))


def treat_unlisted(teacher: TeacherScores, unlisted: str | None) -> None:
    """Set what an item outside a list is; None leaves it as it is.

    Raises:
        ConfigError: the teacher has no lists, or there is no such rule.
    """
    if unlisted is None:
        return
    if unlisted not in (FLOOR, MASK):
        raise ConfigError(f"Invalid unlisted={unlisted!r}: expected floor or mask. Try unlisted={MASK}.")
    if not isinstance(teacher, ListScores):
        raise ConfigError(no_unlisted(unlisted, teacher.name))
    teacher.masks = unlisted == MASK
    teacher.manifest[UNLISTED] = unlisted


def no_unlisted(unlisted: str, teacher: str) -> str:
    """Return the error message for ``teacher_unlisted`` with a teacher that has no lists."""
    return f"teacher_unlisted={unlisted} has no effect on {teacher}, which scores every item: leave it out"


def _check(starts: Tensor, items: Tensor, scores: Tensor, n_items: int) -> None:
    whole = starts.dim() == items.dim() == scores.dim() == 1 and len(starts) > 1 and len(items) == len(scores)
    integer = not (starts.is_floating_point() or items.is_floating_point()) and scores.is_floating_point()
    if not (whole and integer) or int(starts[0]) != 0 or int(starts[-1]) != len(items):
        raise TeacherError("These tensors are not ranked lists: import the lists again")
    if bool((starts.diff() < 0).any()) or bool(((items < 1) | (items >= n_items)).any()):
        raise TeacherError(f"The lists name items outside 1 to {n_items - 1}: import the lists again")
    first = torch.zeros(len(scores) + 1, dtype=torch.bool)
    first[starts.long().cpu()] = True
    falls = (scores[1:] <= scores[:-1]).cpu() | first[1:-1]
    if not bool(scores.isfinite().all()) or not bool(falls.all()):
        raise TeacherError("The scores of a list must be finite and not increasing: import the lists again")


def _check_confidence(confidence: Tensor | None, scores: Tensor) -> None:
    if confidence is None:
        return
    real = confidence.shape == scores.shape and confidence.is_floating_point()
    if not real or not bool((confidence.isfinite() & (confidence >= 0)).all()):
        raise TeacherError("The confidences of a list must be finite and at least 0: import the lists again")


def _floors(starts: Tensor, scores: Tensor) -> Tensor:
    """Return the score of each query's items outside its list, float32 ``[n_queries]``."""
    counts, limits = starts.diff(), torch.finfo(torch.float32)
    if not len(scores):
        return torch.zeros(len(counts), device=scores.device)
    begin, end = starts[:-1].clamp(max=len(scores) - 1), (starts[1:] - 1).clamp(min=0)
    first, last = scores[begin].double(), scores[end].double()
    step = (first - last) / (counts - 1).clamp(min=1)
    step = torch.where((counts > 1) & (step > 0), step, torch.ones_like(step))
    floor = (last - step).clamp(min=limits.min).float()
    # A small step may be lost in rounding beside a large score.
    below = torch.nextafter(scores[end], torch.full_like(floor, limits.min))
    return torch.where(counts > 0, torch.minimum(floor, below), torch.zeros_like(floor))
