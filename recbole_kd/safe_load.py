"""Reads RecBole's checkpoints without running anything that a file asks for.

RecBole pickles a whole ``Config`` into its checkpoints, so ``torch.load`` can read them only with its guard off. Here a
restricted unpickler reads them instead. Three rules make it safe:

* A name outside an exact list of (module, name) pairs is refused.
* ``Config``, model classes and RecBole's layers are never handed to the pickle machine: they become inert references
  that nothing can call. ``Config(...)`` would pass strings to ``eval``, and so would the constructor of KD_DAGFM.
* Only listed callables are called and only plain containers, arrays and matrices take a state.

:func:`install` puts the reader at RecBole's own call sites; ``torch.load`` itself stays the function it is.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, ClassVar, NoReturn

import torch

from recbole_kd.errors import TeacherError

PathOrFile = str | os.PathLike[str] | BinaryIO

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


def _refuse_plain_load(*_args: Any, **_keywords: Any) -> NoReturn:
    raise _RefusedError("a checkpoint in torch's format from before 1.6")


# What torch.load needs of a pickle module.
_PICKLE_MODULE = types.ModuleType("recbole_kd.safe_load.pickle_module")
_PICKLE_MODULE.Unpickler = RestrictedUnpickler  # type: ignore[attr-defined]
_PICKLE_MODULE.load = _refuse_plain_load  # type: ignore[attr-defined]


def load_checkpoint(path: PathOrFile, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint of RecBole's Trainer, as ``torch.load`` would, without running what the file asks for.

    ``other_parameter`` entries that hold a layer (SASRecF, GRU4RecF, FDSA, DIN, DIEN) are left out: the same weights
    are in ``state_dict``.

    Raises:
        TeacherError: the file asks for a name outside the list, or is damaged, or is no checkpoint.
        OSError: the file cannot be opened.
    """
    name = _name_of(path)
    if hasattr(path, "read"):
        return _read(name, lambda: _torch_load(path, map_location))
    with open(path, "rb") as file:
        return _read(name, lambda: _torch_load(file, map_location))


def load_pickle(file: BinaryIO) -> Any:
    """Read a plain pickle that holds numbers, containers, arrays and sparse matrices only.

    RecBole's pickled data sets and data loaders hold bound methods, loggers, samplers and nested ``torch.load`` calls:
    a list wide enough for them would not be safe, so they are refused.

    Raises:
        TeacherError: the file asks for a name outside the list, or is damaged.
    """
    name = _name_of(file)

    def read() -> Any:
        result = RestrictedUnpickler(file).load()
        left = next(_inert_in(result), None)
        if left is not None:
            raise _RefusedError(f"{left.module}.{left.name}")
        return result

    fix = "delete the file and set save_dataset and save_dataloaders to False, so that RecBole prepares the data anew"
    return _read(name, read, fix)


def _read(name: str, read: Callable[[], Any], fix: str | None = None) -> Any:
    """Run ``read`` and turn every way in which a bad file can fail into one sentence.

    Raises:
        TeacherError: as its callers say.
    """
    try:
        return read()
    except _RefusedError as refused:
        fix = fix or "train the model again, or ask whoever made the file for its weights as safetensors"
        raise TeacherError(
            f"{name} asks for {refused}, which is not on the list of what RecBole's own files hold and could run code: {fix}."
        ) from refused
    except Exception as error:
        cause = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        fix = fix or "copy it again or train the model again"
        raise TeacherError(f"{name} cannot be read, it is truncated or of another kind ({cause}): {fix}.") from error


def _name_of(path: PathOrFile) -> str:
    return str(getattr(path, "name", "the given file")) if hasattr(path, "read") else str(path)


def _torch_load(file: Any, map_location: Any) -> dict[str, Any]:
    """Read through ``torch.load``, after a look at the archive itself.

    Raises:
        ValueError: the file is not an archive that torch.save wrote.
        _RefusedError: the file names something outside the list, or is a TorchScript archive, which torch.load would run.
    """
    start = file.tell()
    if file.read(4) != b"PK\x03\x04":
        raise ValueError("it is not an archive of torch.save")
    file.seek(start)
    if "constants.pkl" in torch._C.PyTorchFileReader(file).get_all_records():
        raise _RefusedError("TorchScript code")
    file.seek(start)
    loaded = torch.load(file, map_location=map_location, pickle_module=_PICKLE_MODULE, weights_only=False)
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, not a dictionary")
    return _restore(loaded)


def _restore(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Give the checkpoint its Config back and drop the layers that were read as inert objects.

    Raises:
        _RefusedError: an inert object sits where RecBole never puts one.
    """
    if isinstance(checkpoint.get("config"), _Inert):
        checkpoint["config"] = _restore_config(checkpoint["config"])
    other = checkpoint.get("other_parameter")
    if isinstance(other, dict):
        kept = {key: value for key, value in other.items() if next(_inert_in(value), None) is None}
        checkpoint["other_parameter"] = kept or None
    left = next(_inert_in(checkpoint), None)
    if left is not None:
        raise _RefusedError(f"{left.module}.{left.name}")
    return checkpoint


def _restore_config(inert: _Inert) -> Any:
    """A Config with the state of ``inert``, made without running ``Config.__init__``.

    Raises:
        _RefusedError: the state is not that of a Config, or a value in it would be given to ``eval``.
    """
    from recbole.config import Config

    reference = inert.reference
    if (reference.module, reference.name) != _CONFIG or not isinstance(inert.state, dict):
        raise _RefusedError(f"{reference.module}.{reference.name}")
    state = dict(inert.state)
    for key in ("model_class", "yaml_loader"):
        if isinstance(state.get(key), _Reference):
            state[key] = _restore_class(state[key])
    final = state.get("final_config_dict")
    if not isinstance(final, dict):
        raise ValueError("its Config has no values")
    if str(final.get("model")).lower() == "kd_dagfm" and not str(final.get("teacher")).isidentifier():
        # KD_DAGFM gives this value to eval when the model is built.
        raise _RefusedError(f"the KD_DAGFM teacher {final.get('teacher')!r}")
    config = Config.__new__(Config)
    config.__dict__.update(state)
    return config


def _restore_class(reference: _Reference) -> type:
    if (reference.module, reference.name) == _YAML_LOADER:
        import yaml

        return yaml.FullLoader
    try:
        return _model_class(reference)
    except (LookupError, ImportError) as error:
        raise _RefusedError(f"{reference.module}.{reference.name}") from error


def _inert_in(value: Any) -> Iterator[_Reference]:
    """Every inert object or reference in nested containers, Config included."""
    stack, seen = [value], set()
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, _Reference):
            yield item
        elif isinstance(item, _Inert):
            yield item.reference
        elif isinstance(item, dict):
            stack.extend((*item.keys(), *item.values()))
        elif isinstance(item, list | tuple | set | frozenset):
            stack.extend(item)
        elif type(item).__module__ == _CONFIG[0]:
            stack.append(vars(item))


def load_data_and_model(model_file: PathOrFile) -> tuple[Any, Any, Any, Any, Any, Any]:
    """RecBole's ``load_data_and_model``, reading through :func:`load_checkpoint`.

    Returns the config, the model, the data set and the train, valid and test loaders.

    Raises:
        TeacherError: the file is damaged or asks for a name outside the list.
    """
    from logging import getLogger

    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_logger, init_seed

    checkpoint = load_checkpoint(model_file)
    config = checkpoint["config"]
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    getLogger().info(config)
    dataset = create_dataset(config)
    getLogger().info(dataset)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    # Seeded again as at training time, so that whatever the model draws when it is built is drawn alike.
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, train_data._dataset).to(config["device"])
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter(checkpoint.get("other_parameter"))
    return config, model, dataset, train_data, valid_data, test_data


class _Proxy(types.ModuleType):
    """Stands for a module inside one other module: every attribute is the real one, except those given."""

    def __init__(self, real: types.ModuleType, **replaced: Any) -> None:
        super().__init__(real.__name__, real.__doc__)
        self.__dict__.update(replaced, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)


def _load_for_torch(f: PathOrFile, map_location: Any = None, **_options: Any) -> dict[str, Any]:
    return load_checkpoint(f, map_location)


def _load_for_pickle(file: BinaryIO, **_options: Any) -> Any:
    return load_pickle(file)


def _load_for_numpy(file: Any, *_args: Any, **_options: Any) -> Any:
    import numpy as np

    return np.load(file, allow_pickle=False)


# Every module of RecBole 1.2.1 that reads a pickle: its global name, and what the name's load becomes there.
_CALL_SITES: dict[str, tuple[str, Callable[..., Any]]] = {
    "recbole.trainer.trainer": ("torch", _load_for_torch),
    "recbole.model.general_recommender.convncf": ("torch", _load_for_torch),
    "recbole.model.general_recommender.nais": ("torch", _load_for_torch),
    "recbole.model.general_recommender.neumf": ("torch", _load_for_torch),
    "recbole.model.general_recommender.ract": ("torch", _load_for_torch),
    "recbole.model.sequential_recommender.s3rec": ("torch", _load_for_torch),
    "recbole.model.context_aware_recommender.kd_dagfm": ("torch", _load_for_torch),
    "recbole.model.general_recommender.ldiffrec": ("np", _load_for_numpy),
    "recbole.data.utils": ("pickle", _load_for_pickle),
}


def install() -> None:
    """Put the reader at RecBole's call sites; ``torch.load``, ``pickle.load`` and ``numpy.load`` stay as they are."""
    for module_name, (global_name, load) in _CALL_SITES.items():
        module = importlib.import_module(module_name)
        real = getattr(module, global_name)
        if not isinstance(real, _Proxy):
            setattr(module, global_name, _Proxy(real, load=load))
    importlib.import_module("recbole.quick_start.quick_start")
    for module_name in ("recbole.quick_start.quick_start", "recbole.quick_start"):
        sys.modules[module_name].load_data_and_model = load_data_and_model  # type: ignore[attr-defined]
