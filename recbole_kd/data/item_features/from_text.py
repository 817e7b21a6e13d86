"""Features made from the text of items, stored in the project's cache."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_kd.data.atomic_file_checks import BYTE_ORDER_MARK, marked, not_text
from recbole_kd.data.item_features.matrix_files import IDS_SUFFIX, FeatureMatrix, read_matrix
from recbole_kd.data.item_features.text_encoders import ENCODERS, Text
from recbole_kd.errors import DataError
from recbole_kd.storage.cache import locked
from recbole_kd.storage.cache_entries import entry_damage
from recbole_kd.storage.digests import settings_digest
from recbole_kd.storage.files import MANIFEST, write_manifest, written_whole
from recbole_kd.storage.integrity import say_unchecked
from recbole_kd.storage.screen_log import show

WORDS = ("token", "token_seq")
"""Column types of an ``.item`` file that are read as text."""


def read_item_text(path: Path, item_field: str, separator: str = "\t", encoding: str = "utf-8") -> dict[str, Text]:
    """Return the words of each item of an atomic ``.item`` file: token -> column -> words.

    Raises:
        DataError: the file is missing or malformed, or has no column of words.
    """
    if not path.is_file():
        raise DataError(
            f"Item features are needed, but {path} does not exist to make them from: give item_features={{modality: "
            f"path}}, or put the items' text into that file"
        )
    try:
        return _read_rows(path, item_field, separator, encoding)
    except UnicodeDecodeError as error:
        raise not_text(path, error) from None


def _read_rows(path: Path, item_field: str, separator: str, encoding: str) -> dict[str, Text]:
    with open(path, encoding=encoding, newline="") as stream:
        rows = csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE)
        header = [name.partition(":")[::2] for name in next(rows, [])]
        names = [name for name, _ in header]
        if names and names[0].startswith(BYTE_ORDER_MARK):
            raise marked(path)
        columns = [place for place, (name, kind) in enumerate(header) if kind in WORDS and name != item_field]
        if item_field not in names or not columns:
            raise DataError(
                f"{path} has no column {item_field}:token, or no column of words (token, token_seq) beside it"
            )
        key = names.index(item_field)
        texts: dict[str, Text] = {}
        for number, row in enumerate(rows, start=2):
            if len(row) != len(header):
                raise DataError(f"{path}:{number}: {len(row)} columns, but the header has {len(header)}")
            texts[row[key]] = {names[place]: row[place] for place in columns}
    return texts


class TextFeatures:
    """Features of one encoder for the items of a data set.

    Args:
        texts: texts of all items that have any. tokens: tokens of the data set's items, without the pad.
        encoder: its name.

    Attributes:
        digest: digest of the texts and the encoder. It is the same on every machine, even if the features differ in
            their last bits.
    """

    def __init__(self, texts: dict[str, Text], tokens: Sequence[str], encoder: str) -> None:
        self.items = sorted(token for token in map(str, tokens) if token in texts)
        self.texts = [texts[token] for token in self.items]
        self.encoder = encoder
        content = {
            "items": self.items,
            "texts": [dict(text) for text in self.texts],
            "encoder": ENCODERS[encoder].settings,
        }
        self.digest = f"{encoder}-{settings_digest(content)}"

    def matrix(self, cache: Path, dataset: str) -> FeatureMatrix:
        """Return the features from the cache, or compute and store them.

        An item without a usable word has no row.
        """
        modality = ENCODERS[self.encoder].modality
        entry = cache / "features" / f"{dataset}-{self.digest}"
        with locked(entry):
            if not entry.is_dir():
                show(
                    f"computing {modality} features of {len(self.items)} items with {self.encoder}, once: stored in "
                    f"{entry}"
                )
                if not self.items:
                    raise DataError(
                        f"The .item file of {dataset} has none of its items: give features with item_features"
                    )
                values = ENCODERS[self.encoder].encode(self.texts)
                real = np.flatnonzero(np.abs(values).sum(axis=1))
                with written_whole(entry) as temporary:
                    np.save(temporary / f"{modality}.npy", values[real])
                    lines = "".join(f"{self.items[row]}\n" for row in real)
                    (temporary / f"{modality}{IDS_SUFFIX}").write_text(lines, encoding="utf-8")
                    write_manifest(temporary, {"dataset": dataset, "encoder": self.encoder, "digest": self.digest})
            wrong = None
            if (entry / MANIFEST).exists():
                wrong = entry_damage(entry)
            else:
                say_unchecked(entry, "Delete the folder, and they are made again, with digests.")
            if wrong is not None:
                raise DataError(
                    f"The cached {modality} features {entry} are damaged ({wrong}): delete the folder, and they are "
                    "computed again"
                )
        return read_matrix(modality, entry / f"{modality}.npy")
