"""Reads RecBole's checkpoints without running anything that a file asks for.

RecBole pickles a whole ``Config`` into its checkpoints, so ``torch.load`` can read them only with its guard off. Here the restricted
unpickler reads them instead.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NoReturn

import torch

from recbole_kd.errors import TeacherError
from recbole_kd.integration.restricted_unpickler import (
    _CONFIG,
    _YAML_LOADER,
    RestrictedUnpickler,
    _Inert,
    _model_class,
    _Reference,
    _RefusedError,
)

PathOrFile = str | os.PathLike[str] | BinaryIO


def _refuse_plain_load(*_args: Any, **_keywords: Any) -> NoReturn:
    raise _RefusedError("a checkpoint in torch's format from before 1.6")


# What torch.load needs of a pickle module.
_PICKLE_MODULE = types.ModuleType("recbole_kd.integration.safe_load.pickle_module")
_PICKLE_MODULE.Unpickler = RestrictedUnpickler  # type: ignore[attr-defined]
_PICKLE_MODULE.load = _refuse_plain_load  # type: ignore[attr-defined]


def load_checkpoint(path: PathOrFile, map_location: Any = None, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint of RecBole's Trainer, as ``torch.load`` would, without running what the file asks for.

    ``other_parameter`` entries that hold a layer (SASRecF, GRU4RecF, FDSA, DIN, DIEN) are left out: the same weights
    are in ``state_dict``.

    Args:
        mmap: tensors stay in the file until they are read; it must be left as it is while they are used. Of a path only.

    Raises:
        TeacherError: the file asks for a name outside the list, or is damaged, or is no checkpoint.
        OSError: the file cannot be opened.
    """
    name = _name_of(path)
    if hasattr(path, "read"):
        return _read(name, lambda: _torch_load(path, map_location))
    with open(path, "rb") as file:
        return _read(name, lambda: _torch_load(file, map_location, path if mmap else None))


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


def _torch_load(file: Any, map_location: Any, mapped: Any = None) -> dict[str, Any]:
    """Read through ``torch.load``, after a look at the archive itself; from a path in place of the file, it is memory-mapped.

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
    source: Any = {"f": file} if mapped is None else {"f": mapped, "mmap": True}
    loaded = torch.load(**source, map_location=map_location, pickle_module=_PICKLE_MODULE, weights_only=False)
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
