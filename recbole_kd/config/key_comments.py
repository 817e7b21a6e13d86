"""Keys of a property file with their defaults and meanings, read from the comments beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(r"(?P<key>[A-Za-z_][\w.-]*):\s+(?P<default>.*?)\s+#\s*(?:\((?P<kind>[^)]*)\)\s*)?(?P<meaning>.*)")


@dataclass(frozen=True)
class KeyComment:
    """One key of a property file.

    Attributes:
        default: as the file has it, ``~`` if it is empty. kind: its type in words, such as ``int or 'all'``.
    """

    key: str
    default: str
    kind: str
    meaning: str


def key_comments(path: Path) -> list[KeyComment]:
    """Return the keys of a property file that have a comment on their line, in the file's order."""
    found = map(_LINE.fullmatch, path.read_text(encoding="utf-8").splitlines())
    return [KeyComment(m["key"], m["default"], m["kind"] or "", m["meaning"]) for m in found if m]


def title_comment(path: Path) -> str:
    """Return the comment that a property file begins with, on one line; empty without one."""
    return " ".join(_leading(path.read_text(encoding="utf-8").splitlines()))


def _leading(lines: Sequence[str]) -> list[str]:
    """The comment lines before the first other one."""
    end = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.lstrip("# ") for line in lines[:end]]
