"""Cached weights of trained teachers, from which other stores or dtypes are exported.

They are separate from the exported scores, so that no teacher is trained again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from recbole.utils import ModelType
from safetensors.torch import save_file
from torch import Tensor, nn

from recbole_kd.errors import TeacherError
from recbole_kd.pipeline.training_entries import check_asked
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.scoring.vector_models import cached_names
from recbole_kd.storage.files import (
    MANIFEST,
    WEIGHTS,
    check_written,
    of_epoch,
    read_tensors,
    save_weights,
    write_manifest,
    written_whole,
)
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.screen_log import show

PROBE = "probe.safetensors"
"""A few scores of the trained model. Weights that do not reproduce them are not used."""
N_QUERIES, N_ITEMS = 8, 64


def can_be_kept(model: nn.Module) -> bool:
    """Return whether a model consists of its weights alone.

    A model that is trained by its construction, or that keeps scores outside its weights, does not.
    """
    outside = set(getattr(model, "other_parameter_name", ())) - set(cached_names(model))
    return (
        getattr(model, "type", None) != ModelType.TRADITIONAL and not outside and any(True for _ in model.parameters())
    )


def keep_weights(entry: Path, scorer: Scorer, manifest: Mapping[str, Any], earlier: Iterable[int] = ()) -> None:
    """Write a trained model's weights as a cache entry, if the model is its weights alone.

    Args:
        entry: a missing folder. It appears when it is complete.
        scorer: scorer of the trained model.
        manifest: the manifest of the export, without its store.
        earlier: loads the weights of earlier checkpoints into the model and yields their epochs. Each is kept too.

    Raises:
        StorageError: the disk is full.
    """
    if not can_be_kept(scorer.model):
        return
    with written_whole(entry) as temporary:
        save_weights(temporary / WEIGHTS, scorer.model)
        save_file({"scores": _probe(scorer)}, temporary / PROBE)
        for epoch in earlier:
            save_weights(temporary / of_epoch(WEIGHTS, epoch), scorer.model)
        write_manifest(temporary, manifest)


def _probe(scorer: Scorer) -> Tensor:
    """Return scores of evenly spaced queries and items, float ``[Q, N]`` on the CPU."""
    queries, items = (
        torch.linspace(1, last, min(last, wanted), dtype=torch.float64).long().to(scorer.device)
        for last, wanted in ((scorer.n_queries - 1, N_QUERIES), (scorer.n_items - 1, N_ITEMS))
    )
    with scorer.frozen(), torch.no_grad():
        return scorer.at(queries, items.expand(len(queries), -1)).detach().cpu().contiguous()


def read_kept(entry: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of cached weights.

    Raises:
        TeacherError: they are damaged, or were not made for this run.
    """
    try:
        manifest = read_json(entry / MANIFEST)
    except (ValueError, OSError) as error:
        raise TeacherError(
            f"{entry / MANIFEST} is damaged ({error}); delete the folder {entry} and run again"
        ) from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("report"), dict):
        raise TeacherError(f"{entry / MANIFEST} is damaged (it lacks metrics); delete the folder {entry} and run again")
    check_written(entry, manifest)
    check_asked(entry, manifest, asked)
    return manifest


def restore(entry: Path, scorer: Scorer) -> bool:
    """Load cached weights into a new model and return whether they reproduce its scores.

    If they do not, the model has to be trained again.
    """
    _load(scorer.model, entry / WEIGHTS)
    wanted = read_tensors(entry / PROBE).get("scores", torch.empty(0))
    found = _probe(scorer)
    same = wanted.shape == found.shape and torch.allclose(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)
    if not same:
        show(f"      the weights in {entry} do not give the scores of the trained model again, so it is trained again")
    return same


def replay(entry: Path, model: nn.Module, epochs: Iterable[int]) -> Iterator[int]:
    """Load each earlier checkpoint into the model and yield its epoch, then restore it."""
    for epoch in epochs:
        _load(model, entry / of_epoch(WEIGHTS, epoch))
        yield epoch
    _load(model, entry / WEIGHTS)


def _load(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        words = " ".join(str(error).split())[:200]
        raise TeacherError(
            f"{path} does not fit this run's model ({words}); delete the folder {path.parent} and run again"
        ) from None
