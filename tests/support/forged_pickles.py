"""Pickles that no library writes: calls by name, states given to anything, arrays with any shape, type and bytes."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np


class call:  # noqa: N801  (reads like a function)
    """Pickles as a call of the name with the arguments, whether there is such a name or not."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments


class new:  # noqa: N801
    """Pickles as an empty object of the class of that name, as Python makes those that have a state."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Forged:
    """Pickles as the target that is then given the state; a target used twice is the same object twice."""

    def __init__(self, target: Any, state: Any) -> None:
        self.target, self.state = target, state


class _Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes ``call``, ``new`` and ``Forged``, each object once."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        remembered = self.memo.get(id(obj))
        if isinstance(obj, call | new | Forged) and remembered is not None:
            self.write(self.get(remembered[0]))
        elif isinstance(obj, call):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
            self.memoize(obj)
        elif isinstance(obj, new):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode() + pickle.EMPTY_TUPLE + pickle.NEWOBJ)
            self.memoize(obj)
        elif isinstance(obj, Forged):
            self.save(obj.target)
            self.save(obj.state)
            self.write(pickle.BUILD)
            self.memoize(obj)
        else:
            super().save(obj, save_persistent_id)


def pickled(content: Any) -> bytes:
    """Return the pickle of content that may hold forged parts."""
    file = io.BytesIO()
    pickler = _Pickler(file, protocol=4)
    pickler.framer.start_framing = lambda: None  # GLOBAL is written outside frames
    pickler.dump(content)
    return file.getvalue()


def dtype(text: str, order: str) -> Forged:
    """Return a type as numpy writes it."""
    return Forged(call("numpy", "dtype", text, False, True), (3, order, None, None, None, -1, -1, 0))


def raw_array(shape: Any, kind: Any, data: Any, *, by_columns: bool = False) -> Forged:
    """Return an array of any shape, type and data."""
    return Forged(
        call("numpy._core.multiarray", "_reconstruct", np.ndarray, (0,), b"b"), (1, shape, kind, by_columns, data)
    )
