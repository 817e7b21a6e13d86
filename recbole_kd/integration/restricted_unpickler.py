"""Restricted unpickler that accepts only the content of RecBole's own files.

Three rules make it safe:

* A name outside an exact list of (module, name) pairs is refused.
* No function or class of a library is ever passed to the pickle machine. ``Config``, model classes and RecBole's layers
  become inert references that nothing can call: ``Config(...)`` would pass strings to ``eval``, and so would the
  constructor of KD_DAGFM.
* Only functions of ours can be called. They take plain values, check them, and build arrays, tensors and matrices
  themselves.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import torch

from recbole_kd.integration import pickled_arrays, pickled_tensors
from recbole_kd.integration.allowed_calls import allowed_calls, check_keys
from recbole_kd.integration.inert_objects import Budget, Inert, Placeholder, Recipe, Reference, RefusedError
from recbole_kd.integration.model_classes import names_a_model

_SPARSE = {f"scipy.sparse._{kind}": (f"{kind}_matrix", f"{kind}_array") for kind in ("csr", "csc", "coo", "lil")}
_DTYPES = (
    *("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool"),
    *("complex64", "complex128"),
)
CONFIG = ("recbole.config.configurator", "Config")
YAML_LOADER = ("yaml.loader", "FullLoader")
# SASRecF, GRU4RecF, FDSA, DIN and DIEN pickle an embedding layer, with the data set inside, although its weights are in
# the state_dict. All of it is read as inert objects, and the entry is dropped.
_INERT = frozenset(
    [
        CONFIG,
        YAML_LOADER,
        ("builtins", "list"),
        ("numpy", "ndarray"),
        ("numpy", "matrix"),
        ("logging", "getLogger"),
        ("recbole.data.interaction", "Interaction"),
        ("recbole.data.dataset.dataset", "Dataset"),
        ("recbole.data.dataset.sequential_dataset", "SequentialDataset"),
        ("recbole.data.dataset.customized_dataset", "DIENDataset"),
        ("recbole.sampler.sampler", "SeqSampler"),
        ("torch.nn.modules.container", "ModuleDict"),
        ("torch.nn.modules.container", "ModuleList"),
        ("torch.nn.modules.container", "ParameterList"),
        ("torch.nn.modules.sparse", "Embedding"),
    ]
)
# The same objects under the names in other versions of the libraries.
_RENAMED = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"): ("numpy._core.multiarray", "scalar"),
    ("numpy.matrixlib.defmatrix", "matrix"): ("numpy", "matrix"),
    **{("__builtin__", name): ("builtins", name) for name in ("bytes", "list", "set", "frozenset")},
    **{
        (f"scipy.sparse.{module.rsplit('_', 1)[1]}", name): (module, name)
        for module, names in _SPARSE.items()
        for name in names
    },
}


class Named(Placeholder):
    """A name on the list.

    A pickle can call it, which runs ``call``, or make an empty object of it, which runs ``make``.
    """

    __slots__ = ("call", "make", "module", "name")

    def __init__(
        self, module: str, name: str, call: Callable[..., Any] | None, make: Callable[[], Any] | None = None
    ) -> None:
        self.module = module
        self.name = name
        self.call = call
        self.make = make

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def _size_of(file: Any) -> int:
    start = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(start)
    return int(end - start)


# The pure-Python unpickler, because its steps can be overridden: the C one calls whatever find_class returns.
_PythonUnpickler: Any = pickle._Unpickler


class RestrictedUnpickler(_PythonUnpickler):
    """An unpickler that accepts only the content of RecBole's checkpoints.

    Args:
        file: a seekable binary file with one pickle.
        storage_of: returns the storage of a persistent id ``("storage", type, key, location, number)``; if None,
            every id is refused.

    Raises:
        RefusedError: the file names something outside the lists, or uses an allowed name in another way than RecBole
            does.
        ValueError: the content contradicts itself.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: Any, storage_of: Callable[[Any], pickled_tensors.Storage] | None = None) -> None:
        super().__init__(file)
        self._storage_of = storage_of
        self._budget = Budget(_size_of(file))
        self._calls = allowed_calls(self._budget)

    def find_class(self, module: str, name: str) -> Any:
        key = _RENAMED.get((module, name), (module, name))
        if key in self._calls:
            return Named(*key, self._calls[key])
        if name in _SPARSE.get(key[0], ()):
            return Named(*key, None, functools.partial(pickled_arrays.SparseRecipe, *key, self._budget))
        if module == "torch" and name in _DTYPES:
            return getattr(torch, name)
        if module == "torch" and name in pickled_tensors.STORAGE_TYPES:
            return pickled_tensors.StorageType(name)
        if key in _INERT or names_a_model(*key):
            return Reference(*key)
        raise RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        if self._storage_of is None:
            raise RefusedError("a persistent id")
        return self._storage_of(pid)

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if type(function) is Reference:
            self.stack[-1] = Inert(function)
        elif type(function) is Named and function.call is not None and type(arguments) is tuple:
            self.stack[-1] = function.call(*arguments)
        else:
            raise RefusedError(f"a call of {_describe(function)}")

    def load_newobj(self) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        if type(cls) is Reference:
            self.append(Inert(cls))
        elif type(cls) is Named and cls.make is not None and arguments == ():
            self.append(cls.make())
        else:
            raise RefusedError(f"a call of {_describe(cls)}")

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Recipe | Inert):
            self.stack[-1] = target.build(state)
        elif type(target) is OrderedDict and type(state) is dict and list(state) == ["_metadata"]:
            target._metadata = state["_metadata"]  # type: ignore[attr-defined]  # versions of a state_dict's layers
        else:
            raise RefusedError(f"a state for {_describe(target)}")

    def _use_built(self) -> None:
        """Replace a memoized recipe by the object that was built from it."""
        top = self.stack[-1]
        if isinstance(top, Recipe) and top.built is not None:
            self.stack[-1] = top.built

    def load_get(self) -> None:
        super().load_get()
        self._use_built()

    def load_binget(self) -> None:
        super().load_binget()
        self._use_built()

    def load_long_binget(self) -> None:
        super().load_long_binget()
        self._use_built()

    def _expect(self, target: Any, *kinds: type) -> None:
        if type(target) not in kinds:
            raise RefusedError(f"elements for {_describe(target)}")

    def load_append(self) -> None:
        self._expect(self.stack[-2], list)
        super().load_append()

    def load_appends(self) -> None:
        self._expect(self.metastack[-1][-1], list)
        super().load_appends()

    def load_additems(self) -> None:
        self._expect(self.metastack[-1][-1], set)
        check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        check_keys(self.stack)
        super().load_frozenset()

    def load_dict(self) -> None:
        check_keys(self.stack[::2])
        super().load_dict()

    def load_setitem(self) -> None:
        self._expect(self.stack[-3], dict, OrderedDict, defaultdict)
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._expect(self.metastack[-1][-1], dict, OrderedDict, defaultdict)
        check_keys(self.stack[::2])
        super().load_setitems()

    def refuse_opcode(self) -> NoReturn:
        raise RefusedError("a pickle instruction that RecBole's files never have")

    for _instruction in (
        *("reduce", "newobj", "build", "get", "binget", "long_binget"),
        *("append", "appends", "additems", "frozenset", "dict", "setitem", "setitems"),
    ):
        dispatch[getattr(pickle, _instruction.upper())[0]] = locals()[f"load_{_instruction}"]
    for _opcode in (
        *(pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEWOBJ_EX, pickle.DUP, pickle.PERSID),
        *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    ):
        dispatch[_opcode[0]] = refuse_opcode


def _describe(value: Any) -> str:
    """Return the name that a file asks for, or the type of a value."""
    return str(value) if isinstance(value, Placeholder) else f"{type(value).__module__}.{type(value).__qualname__}"
