"""A teacher's ranked lists as a file: the k best items of every query, block by block, in one process or on Ray workers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_kd.data.fingerprint import settings_digest
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.storage.files import SCORES, read_manifest, read_tensors, write_json
from recbole_kd.teacher.block_writer import Layout, write_blocks
from recbole_kd.teacher.export import scores_from

LISTS, ABOUT = "lists.safetensors", "lists.json"


def export_lists(
    folder: Path, out: Path, k: int, *, queries: range | None = None, step: int = 1024, ray_address: str | None = None
) -> Path:
    """Write the ids (int32 ``[Q, k]``, 0 where there are fewer) and scores (float32 ``[Q, k]``) of the k best items of each query.

    An export that was interrupted is continued; what is written is the same whoever made it.

    Args:
        folder: of a teacher with a factor or dense store. out: gets ``lists.safetensors`` and ``lists.json``.
        queries: ids, consecutive; all without the pad when None. step: queries in a block. ray_address: of a cluster whose workers rank;
            its nodes get the teacher's tables through Ray's object store.

    Raises:
        ConfigError: more items than there are, or a bad range. TeacherError: no such teacher, or one without stored scores.
    """
    manifest = read_manifest(folder)
    if manifest["store"] == "online":
        raise TeacherError(f"{folder} keeps a model and no scores: export the teacher with teacher_store=factors or dense first")
    n_queries, n_items = manifest["n_queries"], manifest["n_items"]
    queries = range(1, n_queries) if queries is None else queries
    if not 1 <= k < n_items:
        raise ConfigError(f"k={k} is not possible: it must be between 1 and {n_items - 1}, the size of the catalogue")
    if queries.step != 1 or not 0 <= queries.start < queries.stop <= n_queries or step < 1:
        raise ConfigError(
            f"queries {queries.start} to {queries.stop} in blocks of {step} are not possible: the teacher has {n_queries - 1}"
        )
    about = {
        "k": k, "first_query": queries.start, "n_queries": len(queries),
        "teacher": {key: manifest.get(key) for key in ("model", "settings", "data")},
    }  # fmt: skip
    layout = Layout({"ids": (torch.int32, k), "scores": (torch.float32, k)}, len(queries), step)
    out.mkdir(parents=True, exist_ok=True)
    tables = {name: table.numpy() for name, table in read_tensors(folder / SCORES).items()}
    write_blocks(out / LISTS, layout, ListRows(tables, queries.start, k), settings_digest(about), ray_address)
    write_json(out / ABOUT, about)
    return out / LISTS


@dataclass(frozen=True)
class ListRows:
    """Makes blocks of lists; the first row belongs to the query ``first``.

    Attributes:
        tables: of the store, as arrays: Ray's workers read them where they are.
    """

    tables: Mapping[str, Any]
    first: int
    k: int

    def __call__(self, rows: slice) -> dict[str, Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the arrays are read-only, and only read
            tables = {name: torch.from_numpy(table) for name, table in self.tables.items()}
        ids, values = scores_from(tables, {}).top_k(torch.arange(self.first + rows.start, self.first + rows.stop), self.k)
        return {"ids": ids.to(torch.int32), "scores": values}
