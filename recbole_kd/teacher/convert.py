"""Conversion of a teacher to another store, without training it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from recbole_kd.ops.topk import BLOCK_BYTES
from recbole_kd.storage.files import SCORES, read_tensors, write_manifest, written_whole
from recbole_kd.storage.targets import check_folder
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.block_writer import Layout, write_blocks
from recbole_kd.teacher.export import DTYPES, FIDELITY_K, mean_overlap
from recbole_kd.teacher.modalities import write_vectors
from recbole_kd.teacher.number_format import rounded
from recbole_kd.teacher.truncated_svd import truncated

FIDELITY_QUERIES = 10_000
"""Maximum number of queries, evenly spaced, on which the fidelity of truncated factors is measured."""


@dataclass(frozen=True)
class _Full:
    """Blocks of a teacher's whole score matrix."""

    teacher: TeacherScores

    def __call__(self, rows: slice) -> dict[str, Tensor]:
        return {"scores": self.teacher.full(torch.arange(rows.start, rows.stop))}


def write_dense(teacher: TeacherScores, folder: Path, dtype: str = "fp32", ray_address: str | None = None) -> None:
    """Write a teacher's scores and manifest as a dense store, block by block.

    Args:
        teacher: exact scores, such as fp32 factors.
        folder: missing or empty. It appears when the export is complete.
        dtype: ``fp32`` or ``fp16``. The fidelity of fp16 is recorded as by
            :func:`recbole_kd.teacher.export.export_teacher`.
        ray_address: address of a cluster whose workers compute the blocks.

    Raises:
        TargetError: the folder is not empty.
    """
    check_folder(folder)
    step = max(1, BLOCK_BYTES // (4 * teacher.n_items))
    content = {**teacher.manifest, "store": "dense", "dtype": dtype}
    content.pop("trajectory", None)
    with written_whole(folder) as temporary:
        write_vectors(teacher.modalities, temporary, DTYPES[dtype])
        layout = Layout({"scores": (DTYPES[dtype], teacher.n_items)}, teacher.n_queries, step)
        write_blocks(temporary / SCORES, layout, _Full(teacher), ray_address=ray_address)
        if dtype != "fp32":
            k = min(FIDELITY_K, teacher.n_items - 1)
            queries = torch.arange(1, teacher.n_queries)
            overlap = mean_overlap(teacher.top_k(queries, k)[0], queries, read_tensors(temporary / SCORES))
            content["fidelity"] = {"k": k, "top_k_overlap": overlap}
        write_manifest(temporary, content)


def write_truncated(teacher: TeacherScores, folder: Path, width: int, dtype: str = "fp32") -> None:
    """Write a teacher's scores and manifest as factors of a smaller width.

    See :func:`recbole_kd.teacher.truncated_svd.truncated`. ``fidelity`` in the manifest holds ``top_k_overlap``, the
    share of each query's top-50 that is kept (with the rounding of ``fp16``), and ``energy``, the share of the scores'
    sum of squares.

    Raises:
        ConfigError: the width is not possible.
        TargetError: the folder is not empty.
    """
    check_folder(folder)
    queries, items, energy = truncated(teacher, width)
    tensors = {name: rounded(t, DTYPES[dtype]) for name, t in (("query_vectors", queries), ("item_vectors", items))}
    k = min(FIDELITY_K, teacher.n_items - 1)
    sample = torch.linspace(
        1, teacher.n_queries - 1, min(FIDELITY_QUERIES, teacher.n_queries - 1), dtype=torch.float64
    ).long()
    overlap = mean_overlap(teacher.top_k(sample, k)[0], sample, tensors)
    fidelity = {"k": k, "top_k_overlap": overlap, "energy": energy}
    content = {**teacher.manifest, "store": "factors", "dtype": dtype, "svd": width, "fidelity": fidelity}
    content.pop("trajectory", None)
    with written_whole(folder) as temporary:
        write_vectors(teacher.modalities, temporary, DTYPES[dtype])
        save_file(tensors, temporary / SCORES)
        write_manifest(temporary, content)
