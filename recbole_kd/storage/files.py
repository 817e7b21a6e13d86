"""The files of a teacher: a folder with manifest.json and scores.safetensors, written whole or not at all.

Safetensors and JSON hold numbers and text only: reading them executes no code.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from recbole_kd.errors import TeacherError
from recbole_kd.storage.disk_full import full_disk_is_said

MANIFEST = "manifest.json"
SCORES = "scores.safetensors"
WEIGHTS = "model.safetensors"
MODALITIES = "modalities.safetensors"
FORMAT = 1

_KEYS: dict[str, type] = {"store": str, "n_queries": int, "n_items": int}
_ONLINE_KEYS: dict[str, type] = {"model": str, "dataset": str, "settings": dict}


def of_epoch(name: str, epoch: int) -> str:
    """Name of the file of an earlier checkpoint: ``scores.safetensors`` -> ``scores-12.safetensors``."""
    stem, _, suffix = name.partition(".")
    return f"{stem}-{epoch}.{suffix}"


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place when the block ends well, and is removed when not.

    Raises:
        StorageError: there is no room for it.
    """
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with the same id
    try:
        with full_disk_is_said(folder, "free some, or name another place, and run again with --resume=True"):
            temporary.mkdir(parents=True)
            yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, indent=2, default=str), encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's state as safetensors, which know no sharing: what a model has under two names (GCMC, FEARec) is written twice."""
    tensors: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in model.state_dict().items():
        whole = tensor.detach().cpu().contiguous()
        place = whole.untyped_storage().data_ptr()
        tensors[name] = whole.clone() if place in places else whole
        places.add(place)
    save_file(tensors, path)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a teacher folder.

    Raises:
        TeacherError: no such folder, no manifest, or one that is not ours.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise TeacherError(
            f"No teacher at {folder}: a teacher is a folder with {MANIFEST}, as a run leaves it in its cache "
            "(or a RecBole checkpoint, *.pth); check --teacher_path or train one with --teacher=<model>"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TeacherError(f"{path} is damaged ({error}); delete the folder and train the teacher again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise TeacherError(f"{path} is not a teacher manifest of format {FORMAT}; export the teacher again")
    needed = {**_KEYS, **(_ONLINE_KEYS if manifest.get("store") == "online" else {})}
    wrong = [name for name, kind in needed.items() if not isinstance(manifest.get(name), kind)]
    wrong += [name for name in ("data", "report") if not isinstance(manifest.get(name, {}), dict)]
    epochs = manifest.get("trajectory", [])
    wrong += [] if isinstance(epochs, list) and all(type(epoch) is int for epoch in epochs) else ["trajectory"]
    if wrong:
        raise TeacherError(f"{path} lacks {', '.join(wrong)} or has it wrong; delete the folder and train the teacher again")
    return manifest


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped: pages come in when they are read.

    Raises:
        TeacherError: missing, truncated or not a safetensors file.
    """
    if not path.is_file():
        raise TeacherError(f"{path} is missing; delete the folder {path.parent} and train the teacher again")
    try:
        with safe_open(path, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise TeacherError(
            f"{path} is truncated or damaged ({error}); delete the folder {path.parent} and train the teacher again"
        ) from None


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Size on disk of tensors as safetensors: the numbers, without the header."""
    return sum(t.numel() * t.element_size() for t in tensors.values())
