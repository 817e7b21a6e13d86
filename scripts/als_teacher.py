#!/usr/bin/env python
"""Train implicit's ALS on a prepared data set and write its ranked lists and vectors.

It is the teacher from another library of results/imported-teachers.md, and needs `pip install implicit`. It takes the
regularisation, alpha and iterations with the best validation NDCG@20 of 1,000 users; the test part is not read.

Example: `python scripts/als_teacher.py dataset/citeulike --out=als`
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

REGULARISATIONS = (1.0, 10.0, 50.0)
ALPHAS = (5.0, 20.0)
ITERATIONS = (5, 10)
"""Validation is looked at after each of these."""
JUDGES = 1000
"""Users, drawn with seed 0, whose validation NDCG@20 decides."""
FACTORS = 256
SCALE = 10.0
"""Factor on the scores. ALS predicts 0 or 1, and a softmax of such scores is nearly uniform."""
CUTS = (50, 100, 200)
SHARES = (0.1, 0.3)
"""Shares of the users for the lists of few users."""


class Interactions:
    """Training and validation interactions of a data set that `recbole-kd prepare` wrote.

    Args:
        folder: of the data set, with NAME.train.inter, NAME.valid.inter, and NAME.inter, whose items are the catalogue.
    """

    def __init__(self, folder: Path) -> None:
        names = ("user", "item")
        read = {part: self._table(folder / f"{folder.name}{part}.inter") for part in ("", ".train", ".valid")}
        self.users, self.items = (pd.Index(sorted(read[""][name].unique())) for name in names)
        self.train, self.valid = (self._matrix(read[part]) for part in (".train", ".valid"))

    @staticmethod
    def _table(path: Path) -> pd.DataFrame:
        return pd.read_csv(path, sep="\t", dtype=str, usecols=[0, 1], header=0, names=["user", "item"])

    def _matrix(self, table: pd.DataFrame) -> csr_matrix:
        rows, columns = self.users.get_indexer(table["user"]), self.items.get_indexer(table["item"])
        values = np.ones(len(table), dtype=np.float32)
        return csr_matrix((values, (rows, columns)), shape=(len(self.users), len(self.items)))


def top(users: np.ndarray, items: np.ndarray, train: csr_matrix, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best items of each user without training items, and their scores, both [users, k]."""
    ids, values = [], []
    for start in range(0, len(users), 512):
        scores = users[start : start + 512] @ items.T
        scores[train[start : start + 512].nonzero()] = -np.inf
        best = np.argpartition(-scores, k, axis=1)[:, :k]
        found = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        ids.append(np.take_along_axis(best, order, axis=1))
        values.append(np.take_along_axis(found, order, axis=1))
    return np.concatenate(ids), np.concatenate(values)


def ndcg(ids: np.ndarray, wanted: csr_matrix) -> float:
    """Return the mean NDCG over all users, of which those without items count 0, of lists [users, k]."""
    discounts = 1 / np.log2(np.arange(ids.shape[1]) + 2)
    hits = np.asarray(wanted[np.arange(len(ids))[:, None], ids].todense())
    ideal = discounts.cumsum()[np.clip(np.diff(wanted.indptr), 1, ids.shape[1]) - 1]
    return float(((hits * discounts).sum(axis=1) / ideal).mean())


def search(data: Interactions) -> tuple[list[dict[str, float]], np.ndarray, np.ndarray]:
    """Return the grid with its validation metrics, and the vectors of the best users and items."""
    rows: list[dict[str, float]] = []
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    some = np.sort(np.random.default_rng(0).permutation(len(data.users))[:JUDGES])
    for regularisation, alpha in product(REGULARISATIONS, ALPHAS):
        model = AlternatingLeastSquares(
            factors=FACTORS, regularization=regularisation, alpha=alpha, iterations=max(ITERATIONS), num_threads=1,
            random_state=0,
        )  # fmt: skip

        def measure(iteration: int, *_: float) -> None:
            nonlocal best
            if iteration + 1 not in ITERATIONS:
                return
            users, items = model.user_factors, model.item_factors  # noqa: B023
            found = ndcg(top(users[some], items, data.train[some], 20)[0], data.valid[some])
            rows.append(
                {"regularisation": regularisation, "alpha": alpha, "iterations": iteration + 1, "valid ndcg@20": found}  # noqa: B023
            )
            print(rows[-1], flush=True)
            if best is None or found > best[0]:
                best = found, users.copy(), items.copy()

        model.fit(data.train, show_progress=False, callback=measure)
    assert best is not None
    return rows, best[1], best[2]


def write_lists(path: Path, data: Interactions, ids: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> None:
    """Write the lists of some users as csv: user, item, score, rank."""
    k = ids.shape[1]
    pd.DataFrame(
        {
            "user": np.repeat(data.users[rows], k),
            "item": data.items[ids[rows].ravel()],
            "score": np.char.mod("%.6g", scores[rows].ravel()),
            "rank": np.tile(np.arange(1, k + 1), len(rows)),
        }
    ).to_csv(path, index=False)


def main(words: list[str]) -> int:
    """Train, choose, and write vectors.npz, lists of several lengths, and grid.json; return 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a data set with parts .train and .valid, such as citeulike's")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    given = parser.parse_args(words)
    data = Interactions(given.folder)
    grid, users, items = search(data)
    users = users * np.float32(SCALE)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "grid.json").write_text(json.dumps(grid, indent=2) + "\n")
    np.savez(
        given.out / "vectors.npz", user_vectors=users, item_vectors=items, users=data.users.to_numpy(str),
        items=data.items.to_numpy(str),
    )  # fmt: skip
    ids, scores = top(users, items, data.train, max(CUTS))
    everybody = np.arange(len(users))
    for k in CUTS:
        write_lists(given.out / f"top-{k}.csv", data, ids[:, :k], scores[:, :k], everybody)
    drawn = np.random.default_rng(0).permutation(len(users))
    for share in SHARES:
        some = np.sort(drawn[: round(share * len(users))])
        write_lists(given.out / f"top-{max(CUTS)}-users-{share:g}.csv", data, ids, scores, some)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
