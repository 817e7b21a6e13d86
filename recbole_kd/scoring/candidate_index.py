"""An approximate index of a student's top candidates, for very large catalogues.

This module does not import RecBole. The largest dot products become nearest neighbours: an item vector v gets one more
coordinate, sqrt(M^2 - |v|^2) with M the length of the longest item vector, so that all vectors lie on a sphere of
radius M. A query is scaled to length M (Bachrach et al., "Speeding Up the Xbox Recommender System Using a Euclidean
Transformation for Inner-Product Spaces", RecSys 2014). k-means divides the items into cells (faiss's IVF). A query
compares the items of its nearest cells exactly. There is no graph (HNSW), because the index is rebuilt at each refresh.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.distributed.row_sharding import Sharing
from recbole_kd.errors import ConfigError
from recbole_kd.ops.gathered_dot import gathered_dot
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.threads import n_threads
from recbole_kd.ops.topk import DotProducts, top_k_in_blocks

RECALL_QUERIES = 256
"""Number of queries that are also ranked exactly, to measure recall."""

PAIRS_PER_SEARCH = 2**21
"""Query-item pairs that one search returns."""

KMEANS_ROUNDS = 10
POINTS_PER_CELL = 64
"""Maximum number of items per cell that k-means uses."""


def load_faiss(kind: str) -> Any:
    """Import faiss.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError:
        raise ConfigError(
            f"kd_candidate_index={kind} needs the library faiss: run `pip install faiss-cpu` (extra index), or take "
            "kd_candidate_index=none"
        ) from None


def cells_for(n_items: int) -> int:
    """Return the default number of cells, the power of 2 nearest to twice the root of n_items."""
    return min(n_items, 2 ** max(0, round(math.log2(2 * math.sqrt(max(1, n_items))))))


@dataclass
class CandidateIndex:
    """An index that searches ``nprobe`` of ``nlist`` cells for each query's best items.

    The first :meth:`top_k` builds it, later calls reuse it, until :meth:`close`.

    Args:
        kind: ``ivf``.
        nlist: number of cells. If None, :func:`cells_for` decides.
        nprobe: number of cells that a query searches. If None, an eighth of them.
        seed: seed of the k-means and of the queries for which recall is measured.

    Attributes:
        recall: of the last closed index, the mean share of a query's exact list that was found, over a sample of
            queries. None before the first is closed.
        recalls: recall of every closed index.
        sizes: (nlist, nprobe) of the last index.
    """

    kind: str = "ivf"
    nlist: int | None = None
    nprobe: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.recall: float | None = None
        self.recalls: list[float] = []
        self.sizes: tuple[int, int] | None = None
        self._cells: _Cells | None = None
        self._sample = torch.empty(0, dtype=torch.int64)
        self._hits, self._wanted = 0, 0

    def top_k(
        self,
        query_table: Tensor,
        item_table: Tensor,
        queries: Tensor,
        k: int,
        exclude: Ragged | None = None,
        sharing: Sharing | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return each query's best items, approximately, with exact scores and order.

        Arguments and result are those of :func:`recbole_kd.ops.topk.top_k_in_blocks` for dot products. If the cells of
        a query hold too few items, the query is ranked exactly.

        Args:
            query_table: float ``[n_queries, d]``.
            item_table: float ``[n_items, d]``, unchanged until the index is closed.
            sharing: see :attr:`recbole_kd.scoring.scorer.Scorer.sharing`. Each process builds the same index.
        """
        tables = query_table.detach().float(), item_table.detach().float()
        if self._cells is None:
            self._cells = self._build(tables[1])
            generator = torch.Generator().manual_seed(self.seed)
            self._sample = 1 + torch.randperm(len(query_table) - 1, generator=generator)[:RECALL_QUERIES]
        own = queries if sharing is None else queries[sharing.slice_of(len(queries))]
        ids, scores = self._search(self._cells, *tables, own, k, exclude)
        found = (
            (ids, scores)
            if sharing is None
            else (sharing.gather(ids, len(queries)), sharing.gather(scores, len(queries)))
        )
        self._count(found[0], tables, queries, k, exclude)
        return found

    def close(self) -> None:
        """Discard the index, because the item vectors are about to change, and record its recall."""
        if self._wanted:
            self.recall = self._hits / self._wanted
            self.recalls.append(self.recall)
        self._cells, self._hits, self._wanted = None, 0, 0

    def log_values(self) -> dict[str, float]:
        """Return the recall of the last closed index, for the log."""
        return {} if self.recall is None else {"candidate_recall": self.recall}

    def report(self) -> dict[str, Any]:
        """Return a summary of all refreshes, for the result."""
        nlist, nprobe = self.sizes or (self.nlist, self.nprobe)
        mean = sum(self.recalls) / len(self.recalls) if self.recalls else None
        return {"kind": self.kind, "nlist": nlist, "nprobe": nprobe, "refreshes": len(self.recalls), "recall": mean}

    def _build(self, items: Tensor) -> _Cells:
        faiss = load_faiss(self.kind)
        faiss.omp_set_num_threads(n_threads())
        vectors = items[1:].cpu().numpy()  # without the pad
        squares = np.square(vectors).sum(1)
        radius = float(np.sqrt(squares.max()))
        on_sphere = np.concatenate([vectors, np.sqrt(np.maximum(radius**2 - squares, 0))[:, None]], axis=1).astype(
            np.float32
        )
        nlist = min(self.nlist or cells_for(len(vectors)), len(vectors))
        nprobe = min(self.nprobe or max(1, nlist // 8), nlist)
        self.sizes = nlist, nprobe
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(on_sphere.shape[1]), on_sphere.shape[1], nlist, faiss.METRIC_L2)
        index.cp.seed = self.seed % 2**31
        index.cp.niter, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = (
            KMEANS_ROUNDS,
            POINTS_PER_CELL,
            1,
        )
        index.train(on_sphere)
        index.add(on_sphere)
        index.nprobe = nprobe
        return _Cells(index, radius)

    @staticmethod
    def _search(
        cells: _Cells, query_table: Tensor, item_table: Tensor, queries: Tensor, k: int, exclude: Ragged | None
    ) -> tuple[Tensor, Tensor]:
        n_items, device = len(item_table), queries.device
        ids = torch.zeros(len(queries), k, dtype=torch.int64, device=device)
        values = torch.full((len(queries), k), -torch.inf, device=device)
        struck = (
            torch.zeros(len(queries), dtype=torch.int64, device=device)
            if exclude is None
            else exclude.counts()[queries]
        )
        width, start = min(k, n_items), 0
        by_struck = struck.argsort(descending=True, stable=True)
        while start < len(queries):
            depth = min(width + int(struck[by_struck[start]]), n_items - 1)
            rows = by_struck[start : start + max(1, PAIRS_PER_SEARCH // depth)]
            start += len(rows)
            some = queries[rows]
            vectors = query_table[some]
            found = cells.nearest(vectors, depth)
            scores = gathered_dot(vectors, item_table, found)
            scores.masked_fill_(found == 0, -torch.inf)
            if exclude is not None:
                scores.masked_fill_(exclude.contains(some, found), -torch.inf)
            best, scores = _in_order(found, scores, width)
            ids[rows, : best.shape[1]], values[rows, : best.shape[1]] = best, scores
        wanted = (n_items - 1 - struck).clamp(max=k)
        short = ((ids > 0).sum(1) < wanted).nonzero().squeeze(1)
        if len(short):
            full = DotProducts(query_table, item_table)
            ids[short], values[short] = top_k_in_blocks(full, queries[short], n_items, k, exclude)
        return ids, values

    def _count(
        self, ids: Tensor, tables: tuple[Tensor, Tensor], queries: Tensor, k: int, exclude: Ragged | None
    ) -> None:
        """Rank the sampled queries exactly and count how many items of their lists were found."""
        rows = torch.isin(queries, self._sample.to(queries.device)).nonzero().squeeze(1)
        exact = top_k_in_blocks(DotProducts(*tables), queries[rows], len(tables[1]), k, exclude)[0]
        hits = (exact.unsqueeze(2) == ids[rows].unsqueeze(1)) & (exact > 0).unsqueeze(2)
        self._hits += int(hits.sum())
        self._wanted += int((exact > 0).sum())


@dataclass(frozen=True)
class _Cells:
    """A faiss index of items 1, 2, ... on a sphere."""

    index: Any
    radius: float

    def nearest(self, vectors: Tensor, k: int) -> Tensor:
        """Return the nearest items: float ``[B, d]`` -> int64 ``[B, k]``, filled up with 0."""
        scaled = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny) * self.radius
        _, places = self.index.search(torch.nn.functional.pad(scaled, (0, 1)).cpu().numpy(), k)
        return torch.from_numpy(places).to(vectors.device) + 1


def _in_order(ids: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return each row's k best columns, best first, ties by id; id 0 for a score of ``-inf``."""
    ids, order = ids.sort(dim=1)
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    scores = scores[:, :k]
    return ids.gather(1, order[:, :k]).masked_fill(scores == -torch.inf, 0), scores
