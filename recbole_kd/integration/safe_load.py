"""Reader of RecBole's checkpoints that runs no code of a file.

RecBole pickles a whole ``Config`` into its checkpoints, so ``torch.load`` can read them only with
``weights_only=False``. Here the restricted unpickler reads them instead.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from recbole_kd.config.argument_kinds import FILE, PATH, takes
from recbole_kd.errors import MissingFileError, TeacherError, UnreadableFileError
from recbole_kd.integration.inert_objects import Inert, Placeholder, Reference, RefusedError
from recbole_kd.integration.model_classes import advice_for, model_class
from recbole_kd.integration.restricted_unpickler import CONFIG, YAML_LOADER, RestrictedUnpickler
from recbole_kd.integration.torch_archive import TorchArchive
from recbole_kd.storage.digests import opened

PathOrFile = str | os.PathLike[str] | BinaryIO


_DEEPEST = 100
"""Most levels of nested containers. RecBole's files have about ten; printing very deep ones would overflow the
stack."""


@takes(path=PATH.or_else(FILE))
def load_checkpoint(path: PathOrFile, map_location: Any = None, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint of RecBole's Trainer without running any code that the file asks for.

    The result is that of ``torch.load``. ``other_parameter`` entries with a layer (SASRecF, GRU4RecF, FDSA, DIN,
    DIEN) are left out: ``state_dict`` has the same weights.

    Args:
        path: a path or an open, seekable binary file. map_location: as in ``torch.load``.
        mmap: keep tensors in the file until they are read; the file must not change while they are used. Only for a
            path.

    Raises:
        TeacherError: the file asks for a name outside the list, is damaged, or is not a checkpoint.
        UnreadableFileError: the file cannot be opened (MissingFileError: it is not there).
        ArgumentError: the path is neither a path nor an open file, such as a number.
    """
    name = _name_of(path)
    if hasattr(path, "read"):
        return _read(name, lambda: _read_archive(path, map_location, mapped=False))
    with _opened(path, name) as file:
        return _read(name, lambda: _read_archive(file, map_location, mapped=mmap))


def _opened(path: Any, name: str) -> BinaryIO:
    try:
        return opened(path)
    except (OSError, ValueError) as error:  # ValueError: the path holds a NUL
        why = getattr(error, "strerror", None) or error
        kind = MissingFileError if isinstance(error, FileNotFoundError) else UnreadableFileError
        raise kind(f"{name} cannot be opened ({why}): check the path of the checkpoint.") from None


@takes(file=FILE)
def load_pickle(file: BinaryIO) -> Any:
    """Read a plain pickle that has only numbers, containers, arrays and sparse matrices.

    RecBole's pickled data sets and data loaders have bound methods, loggers, samplers and nested ``torch.load``
    calls. A list wide enough for them would not be safe, so they are refused.

    Raises:
        TeacherError: the file asks for a name outside the list, or is damaged.
    """
    name = _name_of(file)

    def read() -> Any:
        unpickler = RestrictedUnpickler(file)
        result = unpickler.load()
        _check_real(result, file.tell())
        return result

    fix = "delete the file and set save_dataset and save_dataloaders to False, so that RecBole prepares the data anew"
    return _read(name, read, fix)


def _read(name: str, read: Callable[[], Any], fix: str | None = None) -> Any:
    """Run ``read`` and turn every failure on a bad file into one sentence.

    Raises:
        TeacherError: the file is refused or cannot be read.
    """
    try:
        return read()
    except RefusedError as refused:
        fix = (
            fix
            or advice_for(str(refused))
            or "train the model again, or ask whoever made the file for its weights as safetensors"
        )
        raise TeacherError(
            f"{name} asks for {refused}, which is not on the list of names in RecBole's own files and could run code: "
            f"{fix}."
        ) from refused
    except Exception as error:
        cause = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        fix = fix or "copy it again or train the model again"
        raise TeacherError(f"{name} cannot be read, it is truncated or of another kind ({cause}): {fix}.") from error


def _name_of(path: PathOrFile) -> str:
    return str(getattr(path, "name", "the given file")) if hasattr(path, "read") else str(path)


def _read_archive(file: Any, map_location: Any, mapped: bool) -> dict[str, Any]:
    """Read an archive of ``torch.save``.

    Raises:
        ValueError: it is not one, or its content contradicts itself.
        RefusedError: the file names something outside the list.
    """
    archive = TorchArchive(file, map_location, mapped=mapped)
    pickled = archive.pickle()
    loaded = RestrictedUnpickler(pickled, archive.storage_of).load()
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, not a dictionary")
    return _restore(loaded, len(pickled.getbuffer()))


def _restore(checkpoint: dict[str, Any], size: int) -> dict[str, Any]:
    """Restore the Config of a checkpoint, and drop the layers that were read as inert objects.

    Raises:
        RefusedError: an inert object is where RecBole never puts one.
        ValueError: the values are nested or repeated beyond the file's ``size`` in bytes.
    """
    if isinstance(checkpoint.get("config"), Inert):
        checkpoint["config"] = _restore_config(checkpoint["config"])
    other = checkpoint.get("other_parameter")
    if isinstance(other, dict) and any(_is_layer(value) for value in other.values()):
        checkpoint["other_parameter"] = {key: value for key, value in other.items() if not _is_layer(value)} or None
    _check_real(checkpoint, size)
    return checkpoint


def _is_layer(value: Any) -> bool:
    """Test whether an entry is a layer.

    Five of RecBole's models pickle one, although the state_dict has its weights.
    """
    return isinstance(value, Inert) and (
        value.reference.module == "recbole.model.layers" or value.reference.module.startswith("torch.nn.modules.")
    )


def _restore_config(inert: Inert) -> Any:
    """Return a Config with the state of ``inert``, built without running ``Config.__init__``.

    Raises:
        RefusedError: the state is not that of a Config, or RecBole would pass a value in it to ``eval``.
    """
    from recbole.config import Config

    reference = inert.reference
    if (reference.module, reference.name) != CONFIG or type(inert.state) is not dict:
        raise RefusedError(str(reference))
    state = dict(inert.state)
    for key in ("model_class", "yaml_loader"):
        if isinstance(state.get(key), Reference):
            state[key] = _restore_class(state[key])
    final = state.get("final_config_dict")
    if type(final) is not dict:
        raise ValueError("its Config has no values")
    named = {str(final.get("model")).lower(), str(getattr(state.get("model_class"), "__name__", "")).lower()}
    if "kd_dagfm" in named and not str(final.get("teacher")).isidentifier():
        # KD_DAGFM passes this value to eval when the model is built.
        raise RefusedError(f"the KD_DAGFM teacher {final.get('teacher')!r}")
    config = Config.__new__(Config)
    config.__dict__.update(state)
    return config


def _restore_class(reference: Reference) -> type:
    if (reference.module, reference.name) == YAML_LOADER:
        import yaml

        return yaml.FullLoader
    try:
        return model_class(reference)
    except (LookupError, ImportError) as error:
        raise RefusedError(str(reference)) from error


def _check_real(value: Any, size: int) -> None:
    """Check that nested containers, Config included, hold no inert objects and are small.

    A few bytes can nest a container in itself again and again: printing it would never end.

    Raises:
        RefusedError: an inert object is left.
        ValueError: there are too many levels, or more elements than ten times the ``size`` of the pickle in bytes.
    """
    stack, left = [(value, 0)], 10 * size
    while stack:
        item, depth = stack.pop()
        left -= 1
        if depth > _DEEPEST or left < 0:
            raise ValueError("its containers hold themselves, or each other too many times")
        if isinstance(item, Placeholder):
            raise RefusedError(str(item))
        stack.extend((inner, depth + 1) for inner in _elements(item))


def _elements(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return (
            (*item.keys(), *item.values(), *vars(item).values())
            if type(item) is OrderedDict
            else (*item.keys(), *item.values())
        )
    if isinstance(item, list | tuple | set | frozenset):
        return item
    return vars(item).values() if type(item).__module__ == CONFIG[0] else ()
