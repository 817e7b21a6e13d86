"""Export of a trained model's scores as a teacher folder."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.ops.topk import BLOCK_BYTES
from recbole_kd.scoring.finite_scores import check_products, not_finite
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.scoring.vector_models import cached_names
from recbole_kd.storage.digests import digest
from recbole_kd.storage.files import (
    FORMAT,
    SCORES,
    WEIGHTS,
    of_epoch,
    read_tensors,
    save_weights,
    write_manifest,
    written_whole,
)
from recbole_kd.teacher.block_writer import Layout, write_blocks
from recbole_kd.teacher.modalities import write_modalities
from recbole_kd.teacher.number_format import rounded
from recbole_kd.teacher.stores.dense import DenseScores
from recbole_kd.teacher.stores.factors import FactorScores
from recbole_kd.teacher.stores.lists import CONFIDENCE, TENSORS, ListScores, lists_from
from recbole_kd.teacher.stores.remapped import N_USERS

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
FIDELITY_K = 50
EXPORTED = "exported as a teacher's"


def resolve_store(store: str, has_vectors: bool, is_sequential: bool = False) -> str:
    """Return the store that ``auto`` means for a teacher, or the store given.

    A teacher whose score is a dot product gets factors, else a sequential one online (it has many queries), else dense.
    """
    if store != "auto":
        return store
    return "factors" if has_vectors else "online" if is_sequential else "dense"


def export_teacher(
    scorer: Scorer,
    folder: Path,
    manifest: Mapping[str, Any],
    store: str = "auto",
    dtype: str = "fp32",
    earlier: Iterable[int] = (),
    work: Path | None = None,
    ray_address: str | None = None,
) -> None:
    """Write a trained model's scores as a folder for :func:`recbole_kd.load_teacher`.

    Args:
        scorer: scorer of the trained model.
        folder: missing or empty. It appears when the export is complete.
        manifest: the teacher's model name, settings, metrics and data fingerprint. Store, dtype and sizes are added.
        store: ``auto``, ``factors``, ``dense`` or ``online`` (weights only).
        dtype: ``fp32`` or ``fp16``. With fp16 the share of each query's top-50 that survives the rounding is measured
            and recorded as ``fidelity``.
        earlier: loads the weights of earlier checkpoints into the model, oldest first, and yields their epochs
            (:meth:`recbole_kd.training.trajectory.Trajectory.replay`). Each is written like the model itself. The
            manifest's ``trajectory`` lists them, with the model's own epoch last.
        work: folder that keeps the blocks of a dense store until all are written, so that an interrupted export can
            resume.
        ray_address: address of a cluster whose workers compute the blocks of a dense store.

    Raises:
        ConfigError: ``factors`` with a model whose score is not a dot product, ``online`` with a model that keeps its
            scores outside its weights, or workers for a model that is not on a CPU.
        TargetError: the folder is not empty.
        TrainingError: a score, or a weight of an online store, is not finite.
    """
    kind = resolve_store(store, scorer.has_vectors, scorer.rows is not None)
    check_store(scorer, kind)
    check_dtype(dtype, kind, type(scorer.model).__name__)
    content = {
        **manifest, "format": FORMAT, "store": kind, "dtype": dtype,
        "n_queries": scorer.n_queries, "n_items": scorer.n_items,
    }  # fmt: skip
    if scorer.rows is not None:
        content[N_USERS] = scorer.rows.n_whole
    main = WEIGHTS if kind == "online" else SCORES
    with written_whole(folder) as temporary:
        _write_scores(scorer, temporary / main, kind, dtype, work, ray_address)
        if kind != "online" and dtype != "fp32":
            overlap = _top_k_overlap(scorer, temporary / SCORES)
            content["fidelity"] = {"k": min(FIDELITY_K, scorer.n_items - 1), "top_k_overlap": overlap}
        write_modalities(scorer.model, temporary, DTYPES[dtype])
        for epoch in earlier:
            _write_scores(scorer, temporary / of_epoch(main, epoch), kind, dtype, work, ray_address)
        write_manifest(temporary, content)


def _write_scores(
    scorer: Scorer, path: Path, kind: str, dtype: str, work: Path | None, ray_address: str | None
) -> None:
    with scorer.frozen():
        if kind == "online":
            _check_weights(scorer)
            save_weights(path, scorer.model)
        elif kind == "factors":
            _write_factors(scorer, path, DTYPES[dtype])
        else:
            _write_dense(scorer, path, DTYPES[dtype], work, ray_address)


def no_factors(model: str) -> ConfigError:
    """Return the error for a factor store of a model without vectors."""
    return ConfigError(
        f"teacher_store=factors cannot keep {model}, whose score is not a dot product of vectors: "
        "take teacher_store=dense"
    )


def check_store(scorer: Scorer, kind: str) -> None:
    """Refuse a store that cannot hold this model's scores.

    Raises:
        ConfigError: names a store that can.
    """
    name = type(scorer.model).__name__
    if kind == "factors" and not scorer.has_vectors:
        raise no_factors(name)
    other = set(getattr(scorer.model, "other_parameter_name", ())) - set(cached_names(scorer.model))
    if kind == "online" and (other or not list(scorer.model.parameters())):
        raise no_online_store(name)


def check_dtype(dtype: str, kind: str, name: str) -> None:
    """Refuse a number format that a store does not use (ConfigError)."""
    if kind == "online" and dtype != "fp32":
        raise ConfigError(
            f"teacher_dtype={dtype} has no effect on {name} in an online store, which keeps weights and no scores: "
            "leave it out, or set teacher_store=dense"
        )


def check_address(ray_address: str | None, device: torch.device) -> None:
    """Refuse cluster workers for a teacher that is not on a CPU (ConfigError)."""
    if ray_address is not None and device.type != "cpu":
        raise ConfigError(
            f"teacher_ray_address={ray_address} makes blocks on CPUs and the teacher is on {device}: leave it out"
        )


def no_online_store(name: str) -> ConfigError:
    """Return the error for an online store of a model with scores outside its weights."""
    return ConfigError(
        f"teacher_store=online cannot keep {name}, whose scores are not in its weights: take teacher_store=dense"
    )


def _check_weights(scorer: Scorer) -> None:
    if not all(bool(torch.isfinite(weight).all()) for weight in scorer.model.parameters()):
        raise not_finite(type(scorer.model).__name__, EXPORTED)


def _with_history(scorer: Scorer) -> Tensor:
    """Return which queries have a history and are not the pad, bool ``[n_queries]``."""
    known = torch.ones(scorer.n_queries, dtype=torch.bool, device=scorer.device)
    if scorer.rows is not None:
        known &= (scorer.rows.ends > scorer.rows.begins).to(scorer.device)
    known[0] = False
    return known


def _write_factors(scorer: Scorer, path: Path, dtype: torch.dtype) -> None:
    queries, items = scorer.tables()
    check_products(queries[_with_history(scorer)], items[1:], type(scorer.model).__name__, EXPORTED)
    tensors = {"query_vectors": queries, "item_vectors": items}
    save_file({name: rounded(t, dtype).clone() for name, t in tensors.items()}, path)


class FullRows:
    """Blocks of a scorer's whole score matrix, with one encoding for all blocks."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._tables: tuple[Tensor, Tensor] | None = None

    def __reduce__(self) -> tuple[type, tuple[Scorer]]:
        return type(self), (self.scorer,)

    def __call__(self, block: slice) -> dict[str, Tensor]:
        with self.scorer.frozen(self._tables):
            if self.scorer.has_vectors:
                self._tables = self.scorer.tables()
            queries = torch.arange(block.start, block.stop, device=self.scorer.device)
            scores = self.scorer.full(queries)
        known = _with_history(self.scorer)[queries]
        if not bool(torch.isfinite(scores[known, 1:]).all()):
            raise not_finite(type(self.scorer.model).__name__, EXPORTED)
        return {"scores": scores}


def _write_dense(scorer: Scorer, path: Path, dtype: torch.dtype, work: Path | None, ray_address: str | None) -> None:
    """Write the score matrix block by block, resuming in ``work`` if the weights are the same."""
    check_address(ray_address, scorer.device)
    step = max(1, BLOCK_BYTES // (4 * scorer.n_items))
    layout = Layout({"scores": (dtype, scorer.n_items)}, scorer.n_queries, step)
    place = path if work is None else work / path.name

    write_blocks(place, layout, FullRows(scorer), "" if work is None else _weights_digest(scorer), ray_address)
    if place != path:
        shutil.move(place, path)


def _weights_digest(scorer: Scorer) -> str:
    """Return a digest of everything that a model's scores depend on.

    That is its weights and the state that it keeps outside them.
    """
    other = scorer.model.other_parameter() if hasattr(scorer.model, "other_parameter") else None
    weights = (t.detach().cpu().contiguous().numpy().tobytes() for t in scorer.model.state_dict().values())
    return digest(*weights, pickle.dumps(other))


def _top_k_overlap(scorer: Scorer, path: Path) -> float:
    queries = torch.arange(1, scorer.n_queries)
    k = min(FIDELITY_K, scorer.n_items - 1)
    return mean_overlap(scorer.top_k(queries.to(scorer.device), k)[0].cpu(), queries, read_tensors(path))


def mean_overlap(exact: Tensor, queries: Tensor, tensors: Mapping[str, Tensor]) -> float:
    """Return the mean share of each query's true top-k that the stored scores keep.

    Args:
        exact: int64 ``[Q, k]``, the true lists.
        queries: int64 ``[Q]``.
        tensors: the stored scores.
    """
    rounded = scores_from(tensors, {}).top_k(queries, exact.shape[1])[0]
    hits = [(a.unsqueeze(2) == b.unsqueeze(1)).sum() for a, b in zip(exact.split(256), rounded.split(256), strict=True)]
    return float(sum(hits)) / exact.numel()


COVERED = "covered"
"""Tensor of a store that does not know every query: uint8 ``[n_queries]``, 1 for a known one."""


def scores_from(tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> FactorScores | DenseScores | ListScores:
    """Return the store that holds these tensors.

    Raises:
        TeacherError: the tensors are not scores.
    """
    if tensors.keys() - {CONFIDENCE} == TENSORS:
        return lists_from(tensors, manifest)
    if COVERED in tensors:
        return _with_coverage(tensors, manifest)
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    if any(len(shape) != 2 or not tensors[name].is_floating_point() for name, shape in shapes.items()):
        raise TeacherError(
            f"A teacher's scores are matrices of real numbers, these are {shapes}; export the teacher again"
        )
    if set(shapes) == {"scores"}:
        return DenseScores(tensors["scores"], manifest)
    if set(shapes) == {"query_vectors", "item_vectors"} and shapes["query_vectors"][1] == shapes["item_vectors"][1]:
        return FactorScores(tensors["query_vectors"], tensors["item_vectors"], manifest)
    raise TeacherError(f"These tensors are not a teacher's scores: {shapes}; export the teacher again")


def _with_coverage(
    tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]
) -> FactorScores | DenseScores | ListScores:
    """Return the store of tensors that say which queries they know."""
    scores = scores_from({name: tensor for name, tensor in tensors.items() if name != COVERED}, manifest)
    if tensors[COVERED].shape != (scores.n_queries,):
        raise TeacherError(f"The teacher's coverage has another shape than {scores.n_queries} users: import it again")
    scores.covered = tensors[COVERED].bool()
    return scores
