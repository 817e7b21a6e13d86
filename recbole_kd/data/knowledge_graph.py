"""Training data of a knowledge-aware model: RecBole's data set with a graph, over the split of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.data.dataset import KnowledgeBasedDataset
from recbole.utils import FeatureSource, FeatureType

from recbole_kd.data.reading.atomic_dataset import AtomicFiles
from recbole_kd.errors import DataError
from recbole_kd.storage.digests import digest, file_digest

SUFFIXES = ("kg", "link")
"""Files of a graph, beside the interactions: triples, and the entity of each item."""

_TABLES = ("field2type", "field2source", "field2seqlen", "field2id_token", "field2token_id", "field2bucketnum")


class KnowledgePart(AtomicFiles, KnowledgeBasedDataset):
    """A training part with the triples of ``.kg``.

    Users, items and interactions are those of the run's split, so that scores need no translation. RecBole's own data
    set reorders items and drops those without an entity; here such an item is an entity without triples. The entity of
    an item has the item's id, and all other entities follow.
    """

    @classmethod
    def over(cls, part: Any, config: Any) -> KnowledgePart:
        """Return a part with the graph of its data set.

        Args:
            part: the training part as RecBole's own data set.
            config: RecBole's Config of the model; its fields and filters of the graph are used.

        Raises:
            DataError: a file is missing or malformed, or links no item.
        """
        new = cls.__new__(cls)
        new.__dict__.update(part.__dict__)
        for name in _TABLES:
            setattr(new, name, dict(getattr(part, name)))
        new.config = config
        new._read_graph()
        return new

    def _read_graph(self) -> None:
        config = self.config
        self.head_entity_field, self.tail_entity_field = config["HEAD_ENTITY_ID_FIELD"], config["TAIL_ENTITY_ID_FIELD"]
        self.relation_field, self.entity_field = config["RELATION_ID_FIELD"], config["ENTITY_ID_FIELD"]
        self.kg_reverse_r = config["kg_reverse_r"]
        kg, link = graph_files(self)
        self.kg_feat = self._columns_of(kg, FeatureSource.KG)
        self._filter_kg_by_triple_num()
        links = self._columns_of(link, "link")
        ids = self._entity_ids(links, link)
        self._number_relations()
        for field in (self.head_entity_field, self.tail_entity_field):
            self.kg_feat[field] = self.kg_feat[field].map(ids)
        self._add_auxiliary_relation()
        self.kg_feat = self._dataframe_to_interaction(self.kg_feat)

    def _columns_of(self, path: Path, source: Any) -> pd.DataFrame:
        """Read the columns of a file that a graph consists of.

        Raises:
            DataError: one is not there, or no row is left.
        """
        frame: Any = self._load_feat(str(path), source)
        fields = self._fields_of(source)
        missing = [field for field in fields if frame is None or field not in frame]
        if missing:
            raise DataError(f"{path} has no column {missing[0]}, which a knowledge-aware model reads: add it")
        return pd.DataFrame(frame[fields])

    def _fields_of(self, source: Any) -> list[str]:
        if source == FeatureSource.KG:
            return [self.head_entity_field, self.relation_field, self.tail_entity_field]
        return [self.iid_field, self.entity_field]

    def _get_load_and_unload_col(self, source: Any) -> tuple[set[str], None]:
        """Return the columns to read: those of a graph, which ``load_col`` need not name."""
        return set(self._fields_of(source)), None

    def _ids_of(self, source: Any, kinds: dict[str, Any]) -> list[str]:
        return [name for name in self._fields_of(source) if name in kinds]

    def _entity_ids(self, links: pd.DataFrame, path: Path) -> Mapping[str, int]:
        """Number the entities and return token -> id."""
        items, n_items = self.field2token_id[self.iid_field], len(self.field2id_token[self.iid_field])
        tokens = pd.unique(pd.concat([self.kg_feat[self.head_entity_field], self.kg_feat[self.tail_entity_field]]))
        there, ids = set(tokens), dict[str, int]()
        for item, entity in zip(links[self.iid_field], links[self.entity_field], strict=True):
            if item in items and entity in there:
                ids.setdefault(entity, int(items[item]))
        if not ids:
            raise DataError(
                f"{path} links no item of {self.dataset_name} to an entity of {self.dataset_name}.kg, so the model "
                "would learn nothing from the graph: check its columns, or take a general teacher, such as LightGCN"
            )
        names = np.array(self.field2id_token[self.iid_field], dtype=object)
        for token, number in ids.items():
            names[number] = token
        further = [token for token in tokens if token not in ids]
        ids.update((token, n_items + place) for place, token in enumerate(further))
        names = np.concatenate([names, np.array(further, dtype=object)])
        self.set_field_property(self.entity_field, FeatureType.TOKEN, FeatureSource.KG, 1)
        for field in (self.entity_field, self.head_entity_field, self.tail_entity_field):
            self.field2id_token[field], self.field2token_id[field] = names, ids
        return ids

    def _number_relations(self) -> None:
        numbers, tokens = pd.factorize(self.kg_feat[self.relation_field])
        self.kg_feat[self.relation_field] = numbers + 1
        names = np.array(["[PAD]", *tokens], dtype=object)
        self.field2id_token[self.relation_field] = names
        self.field2token_id[self.relation_field] = {token: number for number, token in enumerate(names)}


def graph_files(dataset: Any) -> tuple[Path, Path]:
    """Return the files of a data set's graph: triples and links.

    Raises:
        DataError: one of them is missing.
    """
    folder, name = Path(dataset.dataset_path), str(dataset.dataset_name)
    kg, link = (folder / f"{name}.{suffix}" for suffix in SUFFIXES)
    for path in (kg, link):
        if not path.is_file():
            raise DataError(
                f"{path} is not there, and a knowledge-aware model learns from {name}.kg (triples) and {name}.link "
                "(the entity of each item): add both, or take a general teacher, such as LightGCN"
            )
    return kg, link


def graph_digest(dataset: Any) -> str:
    """Return the digest of the files of a data set's graph (DataError if one is missing)."""
    return digest(*(file_digest(path).encode() for path in graph_files(dataset)))
