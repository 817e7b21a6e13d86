"""The start of a student from the weights of an earlier one, matched by external ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_kd.errors import ConfigError, StudentError
from recbole_kd.serving.student import VECTORS
from recbole_kd.serving.student_files import ITEMS, TRAINED, USERS, read_student, read_trained, student_folder
from recbole_kd.storage.digests import file_digest
from recbole_kd.storage.files import WEIGHTS
from recbole_kd.storage.places import user_path

KEY = "init_from"
STRUCTURE = ("n_layers", "num_layers", "n_heads", "hidden_act", "layer_norm_eps", "position_bias", "time_bias")
"""Settings that change the meaning of weights with the same shapes."""
EXTRA_ROWS = (0, 1, 2)
"""Numbers of rows that a table may have after its last user or item, such as BERT4Rec's mask."""


@dataclass(frozen=True)
class EarlierStudent:
    """The weights to start from.

    Attributes:
        path: path of the student as given.
        digest: digest of weights and external ids.
        config: content of its config.json.
        tensors: weights by their names in the model.
        users, items: external ids in the order of the tables.
    """

    path: str
    digest: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    users: list[str]
    items: list[str]

    def give(self, model: nn.Module, users: Sequence[object], items: Sequence[object]) -> None:
        """Copy the weights into a new model, except rows of new users and items.

        Args:
            model: the new model.
            users, items: external ids of the model's tables, in their order.

        Raises:
            ConfigError: the model differs from the earlier one.
        """
        own = model.state_dict()
        self._check_names(own)
        rows = {"user": Rows.of(self.users, users), "item": Rows.of(self.items, items)}
        embeddings = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
        for name, table in own.items():
            old = self.tensors[name]
            found = self._kind_of(name, old, table, rows, name in embeddings)
            own[name] = old.to(table) if found is None else found.matched(old.to(table), table)
        model.load_state_dict(own)

    def check(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        """Refuse to start a model of another class or structure (ConfigError).

        Args:
            model: the new model.
            settings: its settings.
        """
        mine, theirs = f"{type(model).__module__}.{type(model).__qualname__}", self.config["model_class"]
        if mine != theirs:
            raise self._refused(f"it is a {self.config['model']}, and the student is a {type(model).__name__}")
        for key in STRUCTURE:
            if key in self.config["settings"] and self.config["settings"][key] != settings.get(key):
                raise self._refused(f"it has {key}={self.config['settings'][key]!r}, not {settings.get(key)!r}")
        if self.config["has_times"] != bool(getattr(model, "has_times", False)):
            raise self._refused("one of the two reads times and the other does not")

    def matches(self, users: Sequence[object], items: Sequence[object]) -> dict[str, Any]:
        """Return the entry of result.json: path, digest, and counts of known users and items.

        Raises:
            ConfigError: no item is known.
        """
        found: dict[str, Any] = {"path": self.path, "digest": self.digest}
        for kind, old, new in (("users", self.users, users), ("items", self.items, items)):
            known = len({str(token) for token in new[1:]} & set(old[1:]))
            found[kind] = {"known": known, "new": len(new) - 1 - known}
        if not found["items"]["known"]:
            raise self._refused(f"none of its {len(self.items) - 1:,} items is in this data set")
        return found

    def _check_names(self, own: Mapping[str, Tensor]) -> None:
        odd = sorted(set(own) ^ set(self.tensors))
        if odd:
            raise self._refused(f"only one of the two has {odd[0]}")

    def _kind_of(
        self, name: str, old: Tensor, new: Tensor, rows: Mapping[str, Rows], is_embedding: bool
    ) -> Rows | None:
        """Return the rows by which a tensor is matched, or None if it is copied as a whole.

        Raises:
            ConfigError: the shapes do not fit, or fit in several different ways.
        """
        kinds: list[Rows | None] = []
        named = []
        if old.dim() and old.shape[1:] == new.shape[1:]:
            for extra in EXTRA_ROWS if is_embedding else EXTRA_ROWS[:1]:
                for kind, found in rows.items():
                    if (len(old), len(new)) == (found.n_old + extra, found.n_new + extra):
                        kinds.append(found)
                        named += [found] if kind in name.lower() else []
        if old.shape == new.shape:
            kinds.append(None)
        if not kinds:
            raise self._refused(f"its {name} is {_shape(old)}, not {_shape(new)}")
        if len(kinds) > 1 and not all(found is None or found.same for found in kinds):
            if len(named) != 1:
                raise self._refused(
                    f"the shape {_shape(old)} of {name} does not tell whether its rows are users, items or neither"
                )
            return named[0]
        return kinds[0]

    def _refused(self, reason: str) -> ConfigError:
        return ConfigError(
            f"Invalid --{KEY}={self.path}: {reason}. Name a student of the same model and keys, or leave it out."
        )


@dataclass(frozen=True)
class Rows:
    """The matching of rows of an earlier table to a new one.

    Attributes:
        n_old, n_new: number of rows of both tables.
        old, new: int64 ``[M]``, positions of the same ids, with the pad.
    """

    n_old: int
    n_new: int
    old: Tensor
    new: Tensor

    @classmethod
    def of(cls, old: Sequence[str], new: Sequence[object]) -> Rows:
        """Match external ids. The first of each list is the pad."""
        place = {token: number for number, token in enumerate(old) if number}
        pairs = [(0, 0)] + [
            (place[str(token)], number) for number, token in enumerate(new) if number and str(token) in place
        ]
        places = torch.tensor(pairs, dtype=torch.int64)
        return cls(len(old), len(new), places[:, 0], places[:, 1])

    @property
    def same(self) -> bool:
        """Whether both lists are the same."""
        return self.n_old == self.n_new == len(self.old) and torch.equal(self.old, self.new)

    def matched(self, old: Tensor, new: Tensor) -> Tensor:
        """Return a copy of the new table with the old rows of the same ids."""
        found = new.clone()
        found[self.new.to(new.device)] = old[self.old.to(new.device)]
        found[self.n_new :] = old[self.n_old :]
        return found


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def read_earlier_student(path: str) -> EarlierStudent:
    """Read the weights of a student from its folder or its run's, without running code.

    Raises:
        StudentError: missing, damaged, of another version, or stored without the weights that were trained.
    """
    folder = student_folder(user_path(path, KEY))
    files = read_student(folder)
    tensors, read = files.tensors, [WEIGHTS, USERS, ITEMS]
    if files.config["form"] == VECTORS:
        names = files.config.get("weights")
        if not isinstance(names, dict) or not set(names.values()) <= {*files.tensors, None}:
            raise StudentError(
                f"The student {folder} keeps its final vectors and not the weights that it was trained with, like "
                "students of earlier versions: run its distillation again"
            )
        apart = read_trained(folder, files.config) if None in names.values() else {}
        missing = [name for name, source in names.items() if source is None and name not in apart]
        if missing:
            raise StudentError(f"The student {folder} is damaged: {TRAINED} lacks {missing[0]}; copy the folder again")
        tensors = {name: files.tensors[source] if source else apart[name] for name, source in names.items()}
        read += [TRAINED] if apart else []
    digest = file_digest(*(folder / name for name in read))
    return EarlierStudent(path, digest, files.config, tensors, files.users, files.items)
