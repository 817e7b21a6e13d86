"""Configurations and data sets of item feature files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

TOKENS = ["[PAD]", "b", "d", "a"]


class FakeConfig(dict[str, Any]):
    def __missing__(self, key: str) -> None:
        return None


def setup(folder: Path, given: Any, tokens: list[str] = TOKENS, **more: Any) -> tuple[FakeConfig, Any]:
    place = FakeConfig(data_path=str(folder), dataset="made", field_separator="\t", cache_dir=str(folder / "cache"))
    dataset = SimpleNamespace(iid_field="item_id", field2id_token={"item_id": tokens}, config=place)
    return FakeConfig(model="BM3", item_features=given, **more), dataset
