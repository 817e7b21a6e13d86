"""Item features that a configuration names, for a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import get_model

from recbole_kd.data.item_features.aligned import ItemFeatures
from recbole_kd.data.item_features.from_text import TextFeatures, read_item_text
from recbole_kd.data.item_features.matrix_files import IDS_SUFFIX, FeatureMatrix, read_matrix
from recbole_kd.data.item_features.text_encoders import ENCODERS, encoders_of
from recbole_kd.errors import ConfigError, DataError
from recbole_kd.storage.cache import cache_folder
from recbole_kd.storage.digests import file_digest
from recbole_kd.storage.places import user_path

GIVEN_KEYS = ("item_features", "text_encoder")
"""Keys of a run that belong to the data, so that teacher and student share them."""

FEATURE_KEYS = (*GIVEN_KEYS, "item_feature_digests")
"""Keys that only models with item features read."""

_SHOWN = 3


@dataclass(frozen=True)
class Source:
    """The source of one modality.

    Attributes:
        digest: digest of its content. read: reads or computes the features.
    """

    digest: str
    read: Callable[[], FeatureMatrix]


def encoders_in(digests: Mapping[str, str]) -> str | list[str] | None:
    """Return the text encoders of features with these digests, as in ``text_encoder``.

    None if all features were read from files.
    """
    names = sorted({encoder for encoder, dash, _ in (digest.partition("-") for digest in digests.values()) if dash})
    return names if len(names) > 1 else names[0] if names else None


def load_item_features(config: Any, dataset: Any) -> dict[str, ItemFeatures]:
    """Return the features of each modality, in the order of the data set's item ids.

    ``item_features: {modality: path}`` names files, relative to the data set's folder or to the current one;
    ``{path: ..., ids: ...}`` in place of a path also names the file of the items' tokens (see
    :mod:`recbole_kd.data.item_features.matrix_files`). If it is empty, ``text_encoder`` makes features from the text
    of the data set's ``.item`` file. An item without features gets the mean of the others, and a warning counts such
    items. The digests are stored in the configuration, and so in checkpoints, and compared with those stored before.

    Raises:
        ConfigError: a key is not a mapping of names to paths, or names an unknown encoder.
        DataError: the features are missing or wrong.
    """
    tokens = dataset.field2id_token[dataset.iid_field]
    sources = _sources(config, dataset)
    digests = {name: source.digest for name, source in sources.items()}
    recorded = config["item_feature_digests"]
    if recorded and recorded != digests:
        raise DataError(
            f"The item features are {digests}, but were {recorded} when this model was made: put the old files back, "
            "or train it again"
        )
    config["item_feature_digests"] = digests  # RecBole's own run keeps them in its checkpoint
    features = {}
    for name, source in sources.items():
        features[name] = ItemFeatures(name, source.read(), tokens)
        missing = features[name].missing
        if missing:
            shown = ", ".join(missing[:_SHOWN]) + (" ..." if len(missing) > _SHOWN else "")
            getLogger().warning(
                f"{len(missing)} of {len(tokens) - 1} items have no {name} features and get the mean of all "
                f"others: {shown}"
            )
    return features


def record_features(config: Any, dataset: Any) -> dict[str, str]:
    """Store the digests of the features in a Config, so that its own digest depends on them.

    Returns:
        modality -> digest; for features made from text it begins with the encoder. Empty if the model does not read
        item features.
    """
    if not getattr(get_model(config["model"]), "reads_item_features", False):
        return {}
    digests = {name: source.digest for name, source in _sources(config, dataset).items()}
    config["item_feature_digests"] = digests
    return digests


def _sources(config: Any, dataset: Any) -> dict[str, Source]:
    place = dataset.config  # a rebuilt model's own Config does not know the path of the data here
    folder, given = Path(place["data_path"]), config["item_features"]
    if given is not None:
        return {name: _of_file(name, value, folder) for name, value in _checked(given).items()}
    encoders = encoders_of(config["text_encoder"] or "tfidf")
    tokens = dataset.field2id_token[dataset.iid_field][1:]
    path = folder / f"{place['dataset']}.item"
    texts = read_item_text(path, dataset.iid_field, place["field_separator"], place["encoding"] or "utf-8")
    cache = cache_folder(place["cache_dir"])
    made = {ENCODERS[name].modality: TextFeatures(texts, tokens, name) for name in encoders}
    return {
        modality: Source(text.digest, partial(text.matrix, cache, place["dataset"])) for modality, text in made.items()
    }


def _of_file(name: str, value: Mapping[str, str] | str, folder: Path) -> Source:
    paths = {"path": value} if isinstance(value, str) else dict(value)
    path = _found(paths["path"], folder)
    ids = _found(paths["ids"], folder) if paths.get("ids") else None
    if not path.is_file() or (ids is not None and not ids.is_file()):
        read_matrix(name, path)  # raises if the path is wrong
        raise DataError(
            f"The ids {ids} of the {name} features do not exist: give a text file with an item token a line"
        )
    beside = ids or path.with_suffix(IDS_SUFFIX)
    return Source(file_digest(path, *([beside] if beside.is_file() else [])), lambda: read_matrix(name, path, ids))


def _found(path: str, folder: Path) -> Path:
    """Return the path inside the data set's folder if it exists there, else the path as given."""
    own = user_path(path, "item_features")
    inside = folder / own
    return inside if inside.is_file() else own


def _checked(given: Any) -> Mapping[str, Any]:
    """Return ``item_features`` after a check: names are identifiers, values are paths."""
    fine = isinstance(given, Mapping) and given
    for name, value in given.items() if fine else ():
        path = value.get("path") if isinstance(value, Mapping) and set(value) <= {"path", "ids"} else value
        texts = [path, *([value["ids"]] if isinstance(value, Mapping) and "ids" in value else [])]
        if not (
            isinstance(name, str) and name.isidentifier() and all(isinstance(text, str) and text for text in texts)
        ):
            fine = False
    if not fine:
        raise ConfigError(
            f"item_features={given!r} is not allowed: write {{visual: image.npy, text: {{path: text.npy, ids: "
            f"items.txt}}}}, names of letters and digits with a path each"
        )
    checked: Mapping[str, Any] = given
    return checked
