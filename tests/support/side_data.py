"""A tiny data set with columns of users and items, and a graph of the items."""

from __future__ import annotations

from pathlib import Path

from tests.support.helpers import TinyData, write_tiny

LINKED = 34
"""Items with an entity; the data have 40."""


def write_sides(folder: Path, name: str = "tiny") -> TinyData:
    """Write the tiny data set, with .user, .item, .kg and .link."""
    data = write_tiny(folder, name)
    lines = {
        "user": ["user_id:token\tage:float\tgroup:token", *(f"u{u}\t{20 + u}\tg{u % 3}" for u in range(30))],
        "item": [
            "item_id:token\tclass:token_seq\tyear:token",
            *(f"i{i}\tc{i % 2} d{i % 3}\ty{i % 7}" for i in range(40)),
        ],
        "kg": [
            "head_id:token\trelation_id:token\ttail_id:token",
            *(f"e{i}\tcolour\tc{i % 2}" for i in range(LINKED)),
            *(f"e{i}\tkind\tk{i % 5}" for i in range(LINKED)),
            "c0\tis\tthing",
        ],
        "link": ["item_id:token\tentity_id:token", *(f"i{i}\te{i}" for i in range(LINKED))],
    }
    for suffix, rows in lines.items():
        (folder / name / f"{name}.{suffix}").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return data
