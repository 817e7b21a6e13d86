"""A finished student: recommendations for its users and new users, and its vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recbole_kd.config.argument_kinds import PATH, takes
from recbole_kd.errors import ConfigError, StudentError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.topk import DotProducts, top_k_in_blocks
from recbole_kd.serving.exports.write import write_exports
from recbole_kd.serving.known_interactions import KnownInteractions, TestedWith
from recbole_kd.serving.rebuilt_model import give_weights, known_class, rebuilt_model
from recbole_kd.serving.student_files import StudentFiles, read_student
from recbole_kd.serving.student_scores import (
    ITEM_VECTORS,
    QUERY_VECTORS,
    Full,
    ModelScores,
    StudentScores,
    VectorScores,
)
from recbole_kd.serving.tokens import Tokens
from recbole_kd.storage.places import user_path

USERS_PER_BLOCK = 4096
"""Number of users that are ranked at a time, so that never all scores are in memory."""
VECTORS, MODEL = "vectors", "model"
"""Forms of a student: final vectors, or a model with its weights."""

ExcludeSeen = bool | Literal["protocol"]


class Embeddings(NamedTuple):
    """The vectors of a student with their external ids, without the pads.

    Attributes:
        users: ids of the users.
        user_vectors: float ``[U, d]``.
        items: ids of the items.
        item_vectors: float ``[I, d]``.
    """

    users: list[str]
    user_vectors: np.ndarray
    items: list[str]
    item_vectors: np.ndarray


@dataclass(frozen=True)
class Student:
    """A loaded student (:func:`load_student`).

    Attributes:
        config: the content of its config.json.
        users, items: its external ids.
        known: the interactions of its users.
        scores: its scores.
    """

    config: dict[str, Any]
    users: Tokens
    items: Tokens
    known: KnownInteractions
    scores: StudentScores

    def __repr__(self) -> str:
        return f"Student({self.config['model']}, {len(self.users) - 1:,} users, {len(self.items) - 1:,} items)"

    def recommend(
        self,
        users: Iterable[object],
        k: int = 10,
        exclude_seen: ExcludeSeen = True,
        candidates: Iterable[object] | None = None,
        exclude: Iterable[object] | None = None,
        unknown: str = "error",
    ) -> pd.DataFrame:
        """Return the k best items of each user, best first, ties in the order of the item table.

        A sequential student (SASRec, HSTU) reads all known items of a user, or with ``"protocol"`` the history of the
        run's test.

        Args:
            users: external ids.
            k: items per user, fewer if fewer are left.
            exclude_seen: True leaves out all known items of the user, ``"protocol"`` those that the run's test left
                out, False none.
            candidates: rank only these items.
            exclude: leave out these items.
            unknown: ``error``, or ``skip`` to leave out users whom the student does not know.

        Returns:
            A frame with a row per user and item: user, item, score, rank from 1.

        Raises:
            UnknownIdError: names the unknown users or items.
            ConfigError: a bad argument.
        """
        seen = self._seen(exclude_seen)
        left_out = self._left_out(candidates, exclude)
        places = torch.from_numpy(self.users.places(users, unknown))
        blocks = []
        for some in places.split(USERS_PER_BLOCK):
            with self.scores.of_users(some, exclude_seen == "protocol") as full:
                ids, scores = self._ranked(full, len(some), k, None if seen is None else seen.of_rows(some), left_out)
            blocks.append(self._frame(self.users.of(some.numpy()), ids, scores))
        return _joined(blocks)

    def recommend_for(
        self,
        histories: Mapping[Any, Sequence[object]] | Sequence[Sequence[object]],
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Iterable[object] | None = None,
        exclude: Iterable[object] | None = None,
        unknown: str = "error",
        times: Mapping[Any, Sequence[float]] | Sequence[Sequence[float]] | None = None,
    ) -> pd.DataFrame:
        """Return the k best items of new users from some known items of each, without training.

        A sequential student encodes the history. For other dot-product students the user's vector is what such a
        history led to in training, by a map of the trained users (:func:`recbole_kd.serving.fold_in.user_map`).

        Args:
            histories: name of a user -> items, the oldest first. The users of a list are named 0, 1, ...
            k: items per user, fewer if fewer are left.
            exclude_seen: leave out the items of the history.
            candidates, exclude: see :meth:`recommend`.
            unknown: ``error``, or ``skip`` to leave out items that the student does not know, and users without any
                other item.
            times: time of each item in seconds, for an HSTU that was trained with times. Without them all items have
                the same time.

        Returns:
            A frame like that of :meth:`recommend`.

        Raises:
            UnknownIdError: names the unknown items.
            ConfigError: a bad argument, or a student that cannot serve new users.
        """
        if not isinstance(exclude_seen, bool):
            raise ConfigError(
                f"Invalid exclude_seen={exclude_seen!r}: expected True or False, because a new user was in no test."
            )
        left_out = self._left_out(candidates, exclude)
        blocks = []
        for names, items, when in _in_blocks(self._histories(histories, times, unknown)):
            rows = np.repeat(np.arange(len(items)), [len(history) for history in items])
            seen = Ragged.from_pairs(rows, torch.cat(items).numpy(), len(items)) if exclude_seen else None
            with self.scores.of_histories(items, when) as full:
                ids, scores = self._ranked(full, len(items), k, seen, left_out)
            named = np.empty(len(names), dtype=object)
            named[:] = names
            blocks.append(self._frame(named, ids, scores))
        return _joined(blocks)

    def similar_items(self, items: Iterable[object], k: int = 10) -> pd.DataFrame:
        """Return the k items whose vectors have the largest cosine with that of each item.

        Returns:
            A frame with a row per pair: item, similar, score, rank from 1.

        Raises:
            UnknownIdError: names the unknown items.
            ConfigError: a bad k, or a student without vectors.
        """
        table = torch.nn.functional.normalize(self.scores.item_vectors(), dim=1)
        places = torch.from_numpy(self.items.places(items, skip=""))
        itself = Ragged(torch.arange(len(places) + 1), places)
        ids, scores = self._ranked(DotProducts(table[places], table), len(places), k, itself, None)
        frame = self._frame(self.items.of(places.numpy()), ids, scores)
        return frame.rename(columns={"item": "similar", "user": "item"})

    def score(self, users: Iterable[object], items: Iterable[object]) -> np.ndarray:
        """Return the score of each user at each item, float32 ``[users, items]``.

        Raises:
            UnknownIdError: names the unknown users or items.
        """
        rows, columns = (
            torch.from_numpy(kind.places(asked, skip="")) for kind, asked in ((self.users, users), (self.items, items))
        )
        found = np.empty((len(rows), len(columns)), dtype=np.float32)
        step = 256
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            with self.scores.of_users(some, as_tested=False) as full:
                found[start : start + step] = full(torch.arange(len(some)))[:, columns].numpy()
        return found

    def embeddings(self) -> Embeddings:
        """Return the vectors of all users and items, whose dot products are the scores.

        Raises:
            ConfigError: the student's score is not a dot product.
        """
        items = self.scores.item_vectors()
        every = torch.arange(1, len(self.users))
        users = [self.scores.user_vectors(some) for some in every.split(USERS_PER_BLOCK)]
        return Embeddings(self.users.tokens[1:], torch.cat(users).numpy(), self.items.tokens[1:], items[1:].numpy())

    def export(self, to: str | Iterable[str], out: str | Path, index: str = "flat") -> dict[str, Any]:
        """Write the student in other forms, with parity.json.

        See :func:`recbole_kd.serving.exports.write.write_exports`.
        """
        return write_exports(self, to, out, index)

    # -- shared helpers -----------------------------------------------------------------------------------------------

    def _seen(self, exclude_seen: ExcludeSeen) -> Ragged | None:
        if not isinstance(exclude_seen, bool) and not (isinstance(exclude_seen, str) and exclude_seen == "protocol"):
            raise ConfigError(
                f"Invalid exclude_seen={exclude_seen!r}: expected True, False or protocol. Try exclude_seen=True."
            )
        if exclude_seen == "protocol":
            return self.known.masked
        return self.known.everything if exclude_seen else None

    def _left_out(self, candidates: Iterable[object] | None, exclude: Iterable[object] | None) -> Tensor | None:
        """Return which items are never recommended, bool ``[n_items]``, or None if there are none."""
        if candidates is None and exclude is None:
            return None
        left_out = torch.zeros(len(self.items), dtype=torch.bool)
        if candidates is not None:
            left_out[:] = True
            left_out[torch.from_numpy(self.items.places(candidates, argument="candidates", skip=""))] = False
        if exclude is not None:
            left_out[torch.from_numpy(self.items.places(exclude, argument="exclude", skip=""))] = True
        return left_out

    def _ranked(
        self, full: Full, n: int, k: int, seen: Ragged | None, left_out: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
            raise ConfigError(f"Invalid k={k!r}: expected a whole number of at least 1. Try k=10.")
        wanted = full
        if left_out is not None:

            def wanted(places: Tensor) -> Tensor:
                return full(places).masked_fill_(left_out, -torch.inf)

        return top_k_in_blocks(wanted, torch.arange(n), len(self.items), min(int(k), len(self.items) - 1), seen)

    def _frame(self, names: np.ndarray, ids: Tensor, scores: Tensor) -> pd.DataFrame:
        there = (ids > 0).numpy()
        rows, columns = there.nonzero()
        found = {
            "user": names[rows],
            "item": self.items.of(ids.numpy()[there]),
            "score": scores.numpy()[there],
            "rank": columns + 1,
        }
        return pd.DataFrame(found)

    def _histories(self, histories: Any, times: Any, unknown: str) -> Iterator[tuple[Any, Tensor, Tensor | None]]:
        """Yield the checked name, items and times of each new user."""
        if isinstance(histories, str | bytes) or not isinstance(histories, Mapping | Sequence):
            raise ConfigError(
                f"Invalid histories={histories!r}: expected a list of lists of item ids. Try [['1', '2']]."
            )
        names = list(histories) if isinstance(histories, Mapping) else range(len(histories))
        if times is not None and (not isinstance(times, Sized) or len(times) != len(names)):
            given = f"there are {len(times)}" if isinstance(times, Sized) else f"it is {times!r}"
            raise ConfigError(f"Invalid times: expected a list for each of the {len(names)} histories, {given}.")
        for name in names:
            items = histories[name]
            places = torch.from_numpy(self.items.places(items, unknown, argument=f"the history of user {name!r}"))
            when = None
            if times is not None:
                when = _times_of(name, items, times)[[unknown != "skip" or str(item) in self.items for item in items]]
            if len(places):
                yield name, places, when
            elif unknown != "skip":
                raise ConfigError(
                    f"The history of user {name!r} is empty: give at least one item, or leave the user out."
                )


def _times_of(name: Any, items: Sequence[object], times: Any) -> Tensor:
    try:
        found = torch.tensor(list(times[name]), dtype=torch.float64)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            f"Invalid times of user {name!r}: expected a number of seconds for each of {len(items)} items."
        ) from None
    if found.shape != (len(items),) or not bool(torch.isfinite(found).all()):
        raise ConfigError(
            f"Invalid times of user {name!r}: expected a number of seconds for each of {len(items)} items."
        )
    return found


def _in_blocks(
    found: Iterator[tuple[Any, Tensor, Tensor | None]],
) -> Iterator[tuple[list[Any], list[Tensor], list[Tensor] | None]]:
    block: list[tuple[Any, Tensor, Tensor | None]] = []
    for one in found:
        block.append(one)
        if len(block) == USERS_PER_BLOCK:
            yield _columns(block)
            block = []
    if block:
        yield _columns(block)


def _columns(block: Sequence[tuple[Any, Tensor, Tensor | None]]) -> tuple[list[Any], list[Tensor], list[Tensor] | None]:
    times = [when for _, _, when in block if when is not None]
    return [name for name, _, _ in block], [items for _, items, _ in block], times or None


def _joined(blocks: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if blocks:
        return pd.concat(blocks, ignore_index=True)
    kinds = {"user": object, "item": object, "score": np.float32, "rank": np.int64}
    return pd.DataFrame({name: np.empty(0, dtype=kind) for name, kind in kinds.items()})


@takes(path=PATH)
def load_student(path: str | Path) -> Student:
    """Load a student from its folder, or from the folder of the run that made it.

    It needs no data set and runs no code from the folder.

    Raises:
        StudentError: missing, damaged, of another version, or of an unknown model class. The message is one sentence.
    """
    files = read_student(user_path(path, "path"))
    config = files.config
    kind = known_class(config["model"], config["model_class"])
    try:
        tested = TestedWith(**config["protocol"])
    except TypeError:
        raise StudentError(f"The student {path} is damaged: its protocol is malformed; copy the folder again") from None
    known = KnownInteractions(files.seen, config["n_users"], tested)
    return Student(
        config, Tokens("user", files.users), Tokens("item", files.items), known, _scores_of(files, kind, known)
    )


def _scores_of(files: StudentFiles, kind: type, known: KnownInteractions) -> StudentScores:
    config, tensors = files.config, files.tensors
    if config["form"] == VECTORS:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        queries, items = shapes.get(QUERY_VECTORS, ()), shapes.get(ITEM_VECTORS, ())
        fits = len(queries) == len(items) == 2 and (queries[0], items[0]) == (config["n_users"], config["n_items"])
        if not fits or any(shape[1:] != items[1:] for shape in shapes.values()):
            raise StudentError(
                f"The student's vectors {shapes} do not fit {config['n_users']} users and {config['n_items']} items"
            )
        return VectorScores(tensors, known)
    if config["form"] != MODEL:
        raise StudentError(
            f"The student is of the unknown form {config['form']!r}: read it with the version that wrote it"
        )
    model = rebuilt_model(kind, config["settings"], config["n_users"], config["n_items"], config["has_times"])
    give_weights(model, tensors)
    return ModelScores(model, config["settings"], known)
