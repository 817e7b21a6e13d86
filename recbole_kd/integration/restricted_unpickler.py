"""A restricted unpickler that knows what RecBole's own files hold, and nothing else.

Three rules make it safe:

* A name outside an exact list of (module, name) pairs is refused.
* ``Config``, model classes and RecBole's layers are never handed to the pickle machine: they become inert references
  that nothing can call. ``Config(...)`` would pass strings to ``eval``, and so would the constructor of KD_DAGFM.
* Only listed callables are called and only plain containers, arrays and matrices take a state.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from typing import Any, ClassVar, NoReturn

import torch

_ENUM_MODULE = "recbole.utils.enum_type"
_ENUMS = ("ModelType", "KGDataLoaderState", "EvaluatorType", "InputType", "FeatureType", "FeatureSource")
_SPARSE = {f"scipy.sparse._{kind}": (f"{kind}_matrix", f"{kind}_array") for kind in ("csr", "csc", "coo", "lil")}
_DTYPES = (
    *("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool"),
    *("complex64", "complex128"),
)

# Names that may be called, or whose class may be instantiated.
_CALLABLE = frozenset(
    [
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),  # RippleNet
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "slice"),
        ("builtins", "complex"),
        ("builtins", "bytearray"),
        ("numpy", "dtype"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("torch", "device"),
        ("torch", "Size"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("torch.serialization", "_get_layout"),
        *((_ENUM_MODULE, name) for name in _ENUMS),
        *((module, name) for module, names in _SPARSE.items() for name in names),
    ]
)
# Names that may be mentioned (as an argument of a listed callable) and never called.
_VALUE = frozenset(
    [
        ("builtins", "list"),
        ("numpy", "ndarray"),
        ("numpy", "matrix"),
        ("numpy.matrixlib.defmatrix", "matrix"),
        *(("torch", name) for name in _DTYPES),
    ]
)
_CONFIG = ("recbole.config.configurator", "Config")
_YAML_LOADER = ("yaml.loader", "FullLoader")
# SASRecF, GRU4RecF, FDSA, DIN and DIEN pickle an embedding layer, with the data set inside, although the weights of that
# layer are in the state_dict. All of it is read as inert objects, and the entry is dropped.
_INERT = frozenset(
    [
        _CONFIG,
        _YAML_LOADER,
        ("logging", "getLogger"),
        ("recbole.data.interaction", "Interaction"),
        ("recbole.data.dataset.dataset", "Dataset"),
        ("recbole.data.dataset.sequential_dataset", "SequentialDataset"),
        ("recbole.data.dataset.customized_dataset", "DIENDataset"),
        ("torch.nn.modules.container", "ModuleDict"),
        ("torch.nn.modules.container", "ModuleList"),
        ("torch.nn.modules.container", "ParameterList"),
        ("torch.nn.modules.sparse", "Embedding"),
    ]
)
# The same objects under the names that older versions of the libraries wrote.
_RENAMED = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "numpy._core.multiarray",
    **{f"scipy.sparse.{kind}": f"scipy.sparse._{kind}" for kind in ("csr", "csc", "coo", "lil")},
}
_MODEL_PACKAGES = ("recbole.model.", "recbole_kd.model.")
_REGISTERED_MODELS: dict[tuple[str, str], type] = {}


class _Reference:
    """A name read from a file: it cannot be called and holds nothing."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name


class _Inert:
    """An object read from a file as its class reference and its state, with no behaviour."""

    __slots__ = ("reference", "state")

    def __init__(self, reference: _Reference) -> None:
        self.reference = reference
        self.state: Any = None

    def __setitem__(self, key: Any, value: Any) -> None:
        """The content of a dict subclass is not kept."""


def allow_model_class(model_class: type) -> None:
    """Let checkpoints name ``model_class``, a registered model that lives outside the two model packages."""
    _REGISTERED_MODELS[(model_class.__module__, model_class.__qualname__)] = model_class


def _resolve(module: str, name: str) -> Any:
    if module == "numpy._core.multiarray" and importlib.util.find_spec("numpy._core") is None:
        module = "numpy.core.multiarray"  # numpy 1
    return getattr(importlib.import_module(module), name)


def _names_a_model(module: str, name: str) -> bool:
    if (module, name) in _REGISTERED_MODELS:
        return True
    parts = module.split(".")
    return module.startswith(_MODEL_PACKAGES) and all(p.isidentifier() for p in (*parts, name))


def _model_class(reference: _Reference) -> type:
    """The model class that a reference names.

    Raises:
        LookupError: the name is not a class derived from ``torch.nn.Module`` in the model packages.
    """
    key = (reference.module, reference.name)
    if key in _REGISTERED_MODELS:
        return _REGISTERED_MODELS[key]
    if _names_a_model(*key):
        found = getattr(importlib.import_module(reference.module), reference.name, None)
        if isinstance(found, type) and issubclass(found, torch.nn.Module):
            return found
    raise LookupError(f"{reference.module}.{reference.name}")


class _RefusedError(Exception):
    """The file asks for something outside the list; the argument says for what."""


# The pure-Python unpickler, because its single steps can be overridden: the C one calls whatever find_class returned.
_PythonUnpickler: Any = pickle._Unpickler


class RestrictedUnpickler(_PythonUnpickler):
    """An unpickler that knows RecBole's checkpoints and nothing else.

    Raises:
        _RefusedError: the file names something outside the lists or uses an allowed name in another way than RecBole does.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: Any, **options: Any) -> None:
        super().__init__(file, **options)
        self._callable: list[Any] = []
        self._sparse: list[Any] = []

    def load(self) -> Any:
        result = super().load()
        for matrix in self._sparse:
            _check_sparse(matrix)
        return result

    def find_class(self, module: str, name: str) -> Any:
        key = (_RENAMED.get(module, module), name)
        if key in _CALLABLE:
            found = _resolve(*key)
            self._callable.append(found)
            return found
        if key == ("_codecs", "encode"):
            self._callable.append(_encode_latin1)
            return _encode_latin1
        if key in _VALUE:
            return _resolve(*key)
        if key in _INERT or _names_a_model(*key):
            return _Reference(*key)
        raise _RefusedError(f"{module}.{name}")

    def _check_callable(self, function: Any) -> None:
        if not any(function is allowed for allowed in self._callable):
            raise _RefusedError(f"a call of {_describe(function)}")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if isinstance(function, _Reference):
            self.stack[-1] = _Inert(function)
            return
        self._check_callable(function)
        if str(getattr(function, "__module__", "")).startswith("scipy.sparse"):
            # Pickled matrices are made empty and given a state; the constructor trusts the indices it is given.
            raise _RefusedError(f"a call of {_describe(function)}")
        self.stack[-1] = function(*arguments)

    def _new(self, cls: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if isinstance(cls, _Reference):
            self.append(_Inert(cls))
            return
        self._check_callable(cls)
        made = cls.__new__(cls, *arguments, **keywords)
        if cls.__module__.startswith("scipy.sparse"):
            self._sparse.append(made)
        self.append(made)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        self._new(self.stack.pop(), arguments, {})

    def load_newobj_ex(self) -> None:
        keywords = self.stack.pop()
        arguments = self.stack.pop()
        self._new(self.stack.pop(), arguments, keywords)

    def load_build(self) -> None:
        target = self.stack[-2]
        if isinstance(target, _Inert):
            target.state = self.stack.pop()
            return
        if not _takes_state(target, self.stack[-1]):
            raise _RefusedError(f"a state for {_describe(target)}")
        super().load_build()
        if any(target is matrix for matrix in self._sparse):
            _check_sparse(target)

    def refuse_opcode(self) -> NoReturn:
        raise _RefusedError("a pickle instruction that RecBole's files never hold")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build
    for _opcode in (pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[_opcode[0]] = refuse_opcode


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Bytes as pickle protocols below 3 write them; any other codec is refused."""
    if encoding != "latin1":
        raise _RefusedError(f"the codec {encoding!r}")
    return text.encode("latin1")


def _describe(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}".lstrip(".")


def _takes_state(target: Any, state: Any) -> bool:
    from collections import OrderedDict

    import numpy as np
    import scipy.sparse

    # The exact type, and never a class: a state given to a class would change it for the whole process.
    if isinstance(target, np.dtype):
        # numpy believes the flags of a state: a number type with those of an object type would have its bytes used as
        # pointers. Field layouts are believed as well, and RecBole's files have none.
        return type(state) is tuple and len(state) == 8 and state[2:5] == (None,) * 3 and state[7] == target.flags
    if scipy.sparse.issparse(target):
        # A state must not put a value where a method is looked up.
        return type(state) is dict and not any(callable(getattr(type(target), str(key), None)) for key in state)
    return type(target) in (OrderedDict, np.ndarray, np.matrix)


def _check_sparse(matrix: Any) -> None:
    """Compare the indices of a sparse matrix with its shape, since scipy's compiled code trusts them.

    Raises:
        ValueError: an index is out of range.
    """
    import numpy as np

    kind = type(matrix).__name__[:3]
    if kind in ("csr", "csc"):
        matrix.check_format(full_check=True)
        return
    if kind == "coo":
        rows, columns, sizes = np.asarray(matrix.row), np.asarray(matrix.col), {len(matrix.data)}
        in_rows = rows.size == 0 or (rows.min() >= 0 and rows.max() < matrix.shape[0])
        sizes |= {len(rows), len(columns)}
    else:
        in_rows = len(matrix.rows) == len(matrix.data) == matrix.shape[0]
        sizes = {len(r) - len(d) for r, d in zip(matrix.rows, matrix.data, strict=True)} | {0}
        columns = np.asarray([c for row in matrix.rows for c in row], dtype=np.int64)
    in_columns = columns.size == 0 or (columns.min() >= 0 and columns.max() < matrix.shape[1])
    if not in_rows or not in_columns or len(sizes) != 1:
        raise ValueError("a sparse matrix has an index outside its shape")
