"""Item features in the order of a data set's item ids. No RecBole import."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from recbole_kd.data.item_features.matrix_files import FeatureMatrix
from recbole_kd.errors import DataError

BLOCK_BYTES = 2**25


class ItemFeatures:
    """Features of one modality: a row of numbers for each item, read on access.

    An item without a row gets the mean of all others; the pad (id 0) gets zeros.

    Args:
        modality: its name, for messages. matrix: the raw rows, memory-mapped.
        tokens: the item tokens by id, the pad first.

    Attributes:
        width: length of a row. missing: tokens of the items without a row.
        rows: int64 ``[n_items]``, -1 for an item without a row.

    Raises:
        DataError: no item has features, or the row of an item does not exist or holds a number that is not finite. The
            message names the modality and the first such item.
    """

    def __init__(self, modality: str, matrix: FeatureMatrix, tokens: Sequence[str]) -> None:
        self.modality = modality
        self._values = matrix.values
        self.width = int(matrix.values.shape[1])
        self.rows = torch.from_numpy(_rows_of(modality, matrix, tokens))
        self.missing = [str(tokens[item]) for item in (self.rows < 0).nonzero().squeeze(1).tolist() if item]
        if len(self.missing) == len(tokens) - 1:
            raise DataError(
                f"No item of the data set has {modality} features: the first without is {tokens[1]!r}; check the ids"
            )
        self.mean = self._mean(tokens)

    @property
    def n_items(self) -> int:
        return len(self.rows)

    def take(self, items: Tensor) -> Tensor:
        """Return the features of items: int64 ``[B]`` -> float32 ``[B, width]``, on their device."""
        asked = items.cpu()
        rows = self.rows[asked]
        found = self._values[rows.clamp(min=0)].float()
        found[rows < 0] = self.mean
        found[asked == 0] = 0.0
        return found.to(items.device)

    def table(self) -> Tensor:
        """Return the features of all items, float32 ``[n_items, width]``."""
        table = torch.empty(self.n_items, self.width)
        for items in item_blocks(self.n_items, self.width):
            table[items] = self.take(items)
        return table

    def _mean(self, tokens: Sequence[str]) -> Tensor:
        """Return the mean row, float32 ``[width]``, and check every number that will be used."""
        total, count = torch.zeros(self.width, dtype=torch.float64), 0
        for items in item_blocks(self.n_items, self.width):
            items = items[self.rows[items] >= 0]
            values = self._values[self.rows[items]].float()  # as take() reads them: float64 values may overflow
            bad = (~torch.isfinite(values)).any(dim=1)
            if bad.any():
                first = int(items[bad][0])
                raise DataError(
                    f"The {self.modality} features of item {str(tokens[first])!r} (row {int(self.rows[first])}) hold a "
                    f"number that is not finite in single precision, as do those of {int(bad.sum()) - 1} more around "
                    "it: leave the row out, or repair it"
                )
            total += values.double().sum(dim=0)
            count += len(items)
        return (total / count).float()


def item_blocks(n_items: int, width: int) -> Iterator[Tensor]:
    """Yield all item ids in consecutive blocks, int64 ``[B]``.

    The float32 features of a block fit the memory budget.
    """
    return iter(torch.arange(n_items).split(max(1, BLOCK_BYTES // (4 * width))))


def _rows_of(modality: str, matrix: FeatureMatrix, tokens: Sequence[str]) -> np.ndarray:
    """Return the row of each item id, int64 ``[n_items]``; -1 for the pad and for none."""
    n_rows = len(matrix.values)
    rows = np.full(len(tokens), -1, dtype=np.int64)
    places = None if matrix.ids is None else {token: row for row, token in enumerate(matrix.ids)}
    taken: dict[int, str] = {}
    for item in range(1, len(tokens)):
        token = str(tokens[item])
        if places is not None:
            rows[item] = places.get(token, -1)
        elif not (token.isascii() and token.isdigit()):
            raise DataError(
                f"The {modality} features have no ids, and item {token!r} is not a row number: put the items' "
                "tokens, one a line, into a file of the same name that ends in .ids"
            )
        elif int(token) >= n_rows:
            raise DataError(
                f"The {modality} features have {n_rows} rows, but item {token!r} needs row {int(token)}: the file is "
                "incomplete"
            )
        elif taken.setdefault(int(token), token) != token:
            raise DataError(
                f"The {modality} features have no ids, and the items {taken[int(token)]!r} and {token!r} would both "
                f"have row {int(token)}: put the items' tokens, one a line, into a file of the same name that ends in "
                ".ids"
            )
        else:
            rows[item] = int(token)
    return rows
