"""A FAISS inner-product index of the item vectors, with its id map."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.errors import ConfigError, StudentError
from recbole_kd.ops.ragged import Ragged
from recbole_kd.ops.threads import n_threads
from recbole_kd.scoring.candidate_index import cells_for
from recbole_kd.serving.exports.exported import Exported, UserVectors, VectorForm

if TYPE_CHECKING:
    from recbole_kd.serving.student import Student

INDEX, ITEMS = "items.faiss", "items.json"
KINDS = ("flat", "hnsw", "ivf")
NEIGHBOURS, SEARCHED = 32, 128
"""Edges of a node of an HNSW graph, and number of candidates that a search keeps."""
PROBED = 4
"""An IVF search reads one in this many cells, those nearest to the query."""


class Faiss(VectorForm):
    """The form items.faiss with items.json, the external ids of its vectors.

    The ids are in the order of the index's numbers, from 0.

    Args:
        kind: ``flat`` is exact; ``hnsw`` (a graph) and ``ivf`` (cells) are approximate.
    """

    name = "faiss"
    packages = {"faiss": "faiss-cpu"}  # noqa: RUF012 - a constant of the class
    extra = "index"

    def __init__(self, kind: str) -> None:
        if kind not in KINDS:
            raise ConfigError(f"Invalid index={kind!r}: expected {', '.join(KINDS)}. Try index='flat'.")
        self.kind, self.exact = kind, kind == "flat"

    def write(self, student: Student, folder: Path) -> None:
        faiss = importlib.import_module("faiss")
        vectors = np.ascontiguousarray(student.scores.item_vectors()[1:].numpy())
        index = _new_index(faiss, self.kind, vectors)
        index.add(vectors)
        faiss.write_index(index, str(folder / INDEX))
        text = json.dumps(student.items.tokens[1:], ensure_ascii=False)
        (folder / ITEMS).write_text(text, encoding="utf-8", newline="\n")

    def read(self, student: Student, folder: Path) -> Exported:
        faiss = importlib.import_module("faiss")
        faiss.omp_set_num_threads(n_threads())
        index = faiss.read_index(str(folder / INDEX))
        tokens = json.loads((folder / ITEMS).read_text(encoding="utf-8"))
        if tokens != student.items.tokens[1:] or index.ntotal != len(tokens):
            raise StudentError(
                f"The index holds {index.ntotal} vectors and {len(tokens)} ids that are not the student's"
            )
        return _Searched(index, UserVectors(student, None))


def _new_index(faiss: Any, kind: str, vectors: np.ndarray) -> Any:
    n, d = vectors.shape
    if kind == "flat":
        return faiss.IndexFlatIP(d)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(d, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = SEARCHED
        return index
    cells = cells_for(n)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # avoids warnings for small catalogues on stderr
    index.nprobe = max(1, cells // PROBED)
    index.train(vectors)
    return index


class _Searched(Exported):
    """An index that searches k items plus the number of excluded ones."""

    def __init__(self, index: Any, users: UserVectors) -> None:
        self._index, self._users = index, users

    def top_k(self, users: Tensor, as_tested: bool, k: int, seen: Ragged) -> tuple[Tensor, Tensor]:
        counts = seen.counts()
        asked = min(k + (int(counts.max()) if len(counts) else 0), self._index.ntotal)
        queries = np.ascontiguousarray(self._users.of(users, as_tested))
        found = [torch.from_numpy(part) for part in self._index.search(queries, asked)]
        scores, ids = found[0], found[1] + 1
        left_out = seen.contains(torch.arange(len(users)), ids.clamp(min=0)) | (ids == 0)
        first = left_out.int().argsort(dim=1, stable=True)[:, :k]  # kept items, in the order of the scores
        left_out = left_out.gather(1, first)
        ids, scores = ids.gather(1, first).masked_fill(left_out, 0), scores.gather(1, first)
        missing = (0, max(0, k - ids.shape[1]))
        pad = torch.nn.functional.pad
        return pad(ids, missing), pad(scores.masked_fill(left_out, -torch.inf), missing, value=-torch.inf)
