"""A teacher's ranked lists as a file: the k best items of every query, block by block, in one process or on Ray workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_kd.cluster import connect
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.teacher.base import TeacherScores
from recbole_kd.teacher.blocks import BlockFile, Layout, take_blocks, write_blocks
from recbole_kd.teacher.export import scores_from
from recbole_kd.teacher.files import SCORES, read_manifest, read_tensors, write_json
from recbole_kd.teacher.fingerprint import settings_digest

LISTS, ABOUT = "lists.safetensors", "lists.json"
IN_FLIGHT = 2
"""Blocks that each worker may be ahead of the writing."""


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
    identity, tables = settings_digest(about), read_tensors(folder / SCORES)
    if ray_address is None:
        scores = scores_from(tables, manifest)
        write_blocks(out / LISTS, layout, lambda rows: lists_of(scores, queries.start, k, rows), identity)
    else:
        file = BlockFile(out / LISTS, layout, identity)
        take_blocks(file, _on_ray(file, tables, queries.start, k, ray_address))
    write_json(out / ABOUT, about)
    return out / LISTS


def lists_of(scores: TeacherScores, first: int, k: int, rows: slice) -> dict[str, Tensor]:
    """A block of lists; the first row belongs to the query ``first``."""
    ids, values = scores.top_k(torch.arange(first + rows.start, first + rows.stop), k)
    return {"ids": ids.to(torch.int32), "scores": values}


def _on_ray(file: BlockFile, tables: Mapping[str, Tensor], first: int, k: int, address: str) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The missing blocks, as workers finish them; a block whose worker was lost is made again."""
    ray = connect(address)
    shared = ray.put({name: table.numpy() for name, table in tables.items()})
    remote = ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")(_ranked_by_worker)
    waiting = file.missing()[::-1]
    ahead = max(1, IN_FLIGHT * int(ray.cluster_resources().get("CPU", 1)))
    pending: dict[Any, int] = {}
    while waiting or pending:
        while waiting and len(pending) < ahead:
            number = waiting.pop()
            rows = file.layout.blocks[number]
            pending[remote.remote(shared, first, k, rows.start, rows.stop)] = number
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        ids, scores = ray.get(ready)
        yield pending.pop(ready), {"ids": torch.tensor(ids), "scores": torch.tensor(scores)}


def _ranked_by_worker(shared: Mapping[str, Any], first: int, k: int, start: int, stop: int) -> tuple[Any, Any]:
    """Ids and scores of a block as arrays; the teacher's tables are Ray's, which a node maps once."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the arrays are read-only, and only read
        tables = {name: torch.from_numpy(table) for name, table in shared.items()}
    lists = lists_of(scores_from(tables, {}), first, k, slice(start, stop))
    return lists["ids"].numpy(), lists["scores"].numpy()
