"""Item features as data: formats, alignment, what is missing, what is refused."""

from __future__ import annotations

import re
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from recbole_kd.data.item_features.aligned import ItemFeatures
from recbole_kd.data.item_features.configured import encoders_in, load_item_features, record_features
from recbole_kd.data.item_features.matrix_files import FeatureMatrix, read_matrix
from recbole_kd.errors import ConfigError, DataError
from tests.support.feature_files import TOKENS, FakeConfig, setup

VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)


def with_ids(folder: Path, values: np.ndarray = VALUES, ids: str = "a\nb\nc\nd\n") -> Path:
    np.save(folder / "f.npy", values)
    (folder / "f.ids").write_text(ids)
    return folder / "f.npy"


def write(folder: Path, kind: str) -> Path:
    """VALUES of the items a, b, c, d in one of the formats."""
    if kind == "npy":
        return with_ids(folder)
    if kind == "float16":
        return with_ids(folder, VALUES.astype(np.float16))
    if kind == "float64":
        return with_ids(folder, VALUES.astype(np.float64))
    if kind == "safetensors":
        save_file({"visual": torch.from_numpy(VALUES), "other": torch.zeros(2)}, folder / "f.safetensors")
        (folder / "f.ids").write_text("a\nb\nc\nd")
        return folder / "f.safetensors"
    table = {"item_id": list("abcd")}
    if kind == "lists":
        pd.DataFrame({**table, "x": VALUES.tolist()}).to_parquet(folder / "f.parquet")
    else:
        pd.DataFrame({**table, "x": VALUES[:, 0], "y": VALUES[:, 1], "z": VALUES[:, 2]}).to_parquet(
            folder / "f.parquet"
        )
    return folder / "f.parquet"


@pytest.mark.parametrize("kind", ["npy", "float16", "float64", "safetensors", "lists", "columns"])
def test_every_format_is_aligned_by_its_ids(kind: str, tmp_path: Path) -> None:
    features = ItemFeatures("visual", read_matrix("visual", write(tmp_path, kind)), TOKENS)
    assert torch.equal(features.table(), torch.from_numpy(np.vstack([np.zeros(3, np.float32), VALUES[[1, 3, 0]]])))
    assert (features.width, features.n_items, features.missing) == (3, 4, [])
    assert torch.equal(features.take(torch.tensor([3, 0, 3])), torch.tensor([[0.0, 1, 2], [0, 0, 0], [0, 1, 2]]))


def test_without_ids_a_token_is_the_number_of_its_row(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", VALUES)
    features = ItemFeatures("visual", read_matrix("visual", tmp_path / "f.npy"), ["[PAD]", "2", "0"])
    assert torch.equal(features.table()[1:], torch.from_numpy(VALUES[[2, 0]]))


def test_tokens_with_leading_zeros_are_numbers_where_no_two_are_one(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", VALUES)
    features = ItemFeatures("visual", read_matrix("visual", tmp_path / "f.npy"), ["[PAD]", "02", "00"])
    assert torch.equal(features.table()[1:], torch.from_numpy(VALUES[[2, 0]]))


def test_a_byte_order_mark_is_no_part_of_the_first_token(tmp_path: Path) -> None:
    path = with_ids(tmp_path, ids="\ufeffa\nb\nc\nd\n")
    assert read_matrix("visual", path).ids == ["a", "b", "c", "d"]


def test_the_matrix_stays_on_disk_and_is_never_changed(tmp_path: Path) -> None:
    path = with_ids(tmp_path)
    before = path.read_bytes()
    matrix = read_matrix("visual", path)
    features = ItemFeatures("visual", matrix, TOKENS)
    features.take(torch.tensor([1])).fill_(5.0)
    matrix.values[0, 0] = 99.0  # private pages
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["npy", "float16", "safetensors"])
def test_rows_are_read_from_the_file_when_they_are_asked_for(kind: str, tmp_path: Path) -> None:
    """What is written into the file later is what is read: nothing was copied."""
    path = write(tmp_path, kind)
    features = ItemFeatures("visual", read_matrix("visual", path), TOKENS)
    content = path.read_bytes()
    last = np.float16(11).tobytes() if kind == "float16" else np.float32(11).tobytes()
    place = content.rindex(last)
    with open(path, "r+b") as stream:
        stream.seek(place)
        stream.write((np.float16 if kind == "float16" else np.float32)(77).tobytes())
    assert features.take(torch.tensor([2])).tolist() == [[9.0, 10.0, 77.0]]


def test_items_without_features_have_the_mean_and_are_counted(tmp_path: Path, caplog: Any) -> None:
    features = ItemFeatures("visual", read_matrix("visual", with_ids(tmp_path)), [*TOKENS, "new", "newer"])
    assert features.missing == ["new", "newer"]
    assert torch.allclose(features.take(torch.tensor([4])), torch.from_numpy(VALUES[[1, 3, 0]].mean(0, keepdims=True)))
    getLogger().propagate = True
    config, dataset = setup(tmp_path, {"visual": "f.npy"}, [*TOKENS, "new", "newer"])
    with caplog.at_level("WARNING"):
        load_item_features(config, dataset)
    assert "2 of 5 items have no visual features and get the mean of all others: new, newer" in caplog.text


def refused(values: np.ndarray, ids: str | None = "a\nb\nc\nd\n", tokens: list[str] = TOKENS) -> Any:
    def make(folder: Path) -> None:
        np.save(folder / "f.npy", values)
        if ids is not None:
            (folder / "f.ids").write_text(ids)
        ItemFeatures("visual", read_matrix("visual", folder / "f.npy"), tokens)

    return make


def with_nan(row: int, value: float = float("nan")) -> np.ndarray:
    values = VALUES.astype(np.float64)
    values[row, 1] = value
    return values


def uneven(folder: Path) -> None:
    pd.DataFrame({"item_id": ["a", "b"], "x": [[1.0, 2.0], [1.0]]}).to_parquet(folder / "f.parquet")
    read_matrix("visual", folder / "f.parquet")


def parquet(columns: dict[str, list[Any]]) -> Any:
    """Rows of the items a and b, read from Parquet."""

    def make(folder: Path) -> None:
        pd.DataFrame({"item_id": ["a", "b"], **columns}).to_parquet(folder / "f.parquet")
        ItemFeatures("visual", read_matrix("visual", folder / "f.parquet"), ["[PAD]", "a", "b"])

    return make


BAD = {
    "too few ids": (refused(VALUES, "a\nb\nd\n"), "have 4 rows and 3 ids: the first row without an item is 3"),
    "too many ids": (refused(VALUES, "a\nb\nc\nd\ne\n"), "have 4 rows and 5 ids: the first item without a row is 'e'"),
    "an id twice": (refused(VALUES, "a\nb\nd\nb\n"), "have two rows for item 'b'"),
    "nan": (refused(with_nan(3)), r"of item 'd' \(row 3\) hold a number that is not finite"),
    "infinite": (refused(with_nan(0, float("inf"))), r"of item 'a' \(row 0\) hold a number that is not finite"),
    "no such row": (refused(VALUES, None, ["[PAD]", "1", "4"]), "have 4 rows, but item '4' needs row 4"),
    "no number": (refused(VALUES, None), "have no ids, and item 'b' is not a row number"),
    "nobody": (
        refused(VALUES, "w\nx\ny\nz\n"),
        "No item of the data set has visual features: the first without is 'b'",
    ),
    "one axis": (refused(VALUES.ravel()), r"have the shape \(12,\) and type float32"),
    "whole numbers": (refused(VALUES.astype(np.int64)), "type int64: they must be a matrix"),
    "objects": (refused(VALUES.astype(object)), "are not a readable .npy matrix"),
    "structs": (parquet({"x": [{"p": 1.0}, {"p": 2.0}]}), r"hold struct<p: double> in the column x, from item 'a' on"),
    "lists of texts": (parquet({"x": [["1"], ["x"]]}), "hold list<.*string> in the column x, from item 'a' on"),
    "lists of uneven lists": (parquet({"x": [[[1.0]], [[1.0, 2.0]]]}), "in the column x, from item 'a' on"),
    "a list beside a number": (
        parquet({"x": [1.0, 2.0], "y": [[1.0], [2.0]]}),
        "hold list<.*double> in the column y, from item 'a' on",
    ),
    "texts": (parquet({"x": ["1", "2"]}), "hold string in the column x, from item 'a' on"),
    "no numbers": (parquet({}), "have no column of numbers"),
    "no list": (parquet({"x": [None, [1.0]]}), "have 0 numbers for item 'a': every row must have some"),
    "a later row without a list": (parquet({"x": [[1.0], None]}), "have 0 numbers for item 'b' and 1 for the first"),
    "no item": (parquet({"item_id": ["a", None], "x": [1.0, 2.0]}), "have no item_id in row 1"),
    "too large in a list": (
        parquet({"x": [[1.0], [1e300]]}),
        r"of item 'b' \(row 1\) hold a number that is not finite in single precision",
    ),
    "too large in a column": (
        parquet({"x": [1.0, 1e300]}),
        r"of item 'b' \(row 1\) hold a number that is not finite in single precision",
    ),
    "too large": (refused(with_nan(1, 1e300)), r"of item 'b' \(row 1\) hold a number that is not finite in single"),
    "one row for two": (
        refused(VALUES, None, ["[PAD]", "1", "3", "01", "001"]),
        "the items '1' and '01' would both have row 1",
    ),
    "uneven": (uneven, "have 1 numbers for item 'b' and 2 for the first"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_one_sentence_with_the_modality_and_the_item(name: str, tmp_path: Path) -> None:
    make, words = BAD[name]
    with pytest.raises(DataError, match=words) as refusal:
        make(tmp_path)
    assert "visual" in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_bad_number_of_an_item_outside_the_data_set_does_not_matter(tmp_path: Path) -> None:
    refused(with_nan(2))(tmp_path)


def test_truncated_and_unknown_files_are_refused(tmp_path: Path) -> None:
    path = with_ids(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"The visual features .*f\.npy are not a readable"):
        read_matrix("visual", path)
    (tmp_path / "g.safetensors").write_bytes(b"\x00" * 9)
    with pytest.raises(DataError, match=r"The visual features .*g\.safetensors are damaged"):
        read_matrix("visual", tmp_path / "g.safetensors")
    (tmp_path / "h.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"The visual features .*h\.parquet are damaged"):
        read_matrix("visual", tmp_path / "h.parquet")
    with pytest.raises(DataError, match=r"must be one of \.npy, \.safetensors, \.parquet"):
        read_matrix("visual", tmp_path / "f.csv")
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "i.safetensors")
    with pytest.raises(DataError, match="hold the tensors a, b: name one of them visual"):
        read_matrix("visual", tmp_path / "i.safetensors")


# -- from a configuration --------------------------------------------------------------------------------------------


def test_a_digest_is_that_of_the_content_and_of_the_ids(tmp_path: Path) -> None:
    with_ids(tmp_path)
    config, dataset = setup(tmp_path, {"visual": "f.npy"})
    first = record_features(config, dataset)
    assert config["item_feature_digests"] == first and re.fullmatch(r"[0-9a-f]{16}", first["visual"])
    (tmp_path / "elsewhere").mkdir()
    with_ids(tmp_path / "elsewhere")
    config2, dataset2 = setup(tmp_path / "elsewhere", {"visual": "f.npy"})
    assert record_features(config2, dataset2) == first
    with_ids(tmp_path, ids="b\na\nc\nd\n")
    config3, _ = setup(tmp_path, {"visual": "f.npy"})
    assert record_features(config3, dataset) != first
    with pytest.raises(DataError, match="put the old files back, or train it again"):
        load_item_features(config, dataset)
    assert record_features(FakeConfig(model="MF", item_features={"visual": "gone.npy"}), dataset) == {}


def test_encoders_are_read_off_the_digests() -> None:
    assert encoders_in({"visual": "0123456789abcdef"}) is None and encoders_in({}) is None
    assert encoders_in({"text": "tfidf-0123456789abcdef"}) == "tfidf"
    assert encoders_in({"text": "tfidf-01", "sentence": "minilm-23", "visual": "45"}) == ["minilm", "tfidf"]


def test_an_ids_file_may_be_named(tmp_path: Path) -> None:
    np.save(tmp_path / "g.npy", VALUES)
    (tmp_path / "who.txt").write_text("d\nc\nb\na\n")
    config, dataset = setup(tmp_path, {"visual": {"path": str(tmp_path / "g.npy"), "ids": "who.txt"}})
    assert torch.equal(load_item_features(config, dataset)["visual"].table()[1:], torch.from_numpy(VALUES[[2, 0, 3]]))


@pytest.mark.parametrize(
    "given", [{}, {"a.b": "x.npy"}, {"visual": 3}, {"visual": {"file": "x"}}, {"visual": {"ids": "x"}}, {"visual": ""}]
)
def test_item_features_must_be_names_and_paths(given: Any, tmp_path: Path) -> None:
    config, dataset = setup(tmp_path, given)
    with pytest.raises(ConfigError, match=r"^item_features=.* is not allowed: write \{visual"):
        record_features(config, dataset)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for given, words in (
        ({"visual": "gone.npy"}, r"The visual features gone\.npy do not exist"),
        ({"visual": {"path": "f.npy", "ids": "gone"}}, "The ids gone of the visual features"),
    ):
        with_ids(tmp_path)
        config, dataset = setup(tmp_path, given)
        with pytest.raises(DataError, match=words):
            record_features(config, dataset)


def test_the_pad_has_zeros_and_half_precision_is_read_as_float32() -> None:
    matrix = FeatureMatrix(torch.ones(1, 2, dtype=torch.float16), ["a"])
    taken = ItemFeatures("visual", matrix, ["[PAD]", "a"]).take(torch.tensor([0, 1]))
    assert taken.dtype == torch.float32 and taken.tolist() == [[0.0, 0.0], [1.0, 1.0]]
