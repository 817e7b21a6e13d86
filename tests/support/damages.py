"""Damages that happen to a file on disk."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, random.Random], None]


def _half(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path, draw: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(raw))


def _last_flipped(path: Path, draw: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 0x40  # of the last number of a file of tensors
    path.write_bytes(bytes(raw))


def _random_bytes(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(max(64, path.stat().st_size)))


def _empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def _longer(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes() + bytes(100))


def _gone(path: Path, draw: random.Random) -> None:
    path.unlink()


def _folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _link_to_nowhere(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/file")


def _pipe(path: Path, draw: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _swapped(path: Path, draw: random.Random) -> None:
    """Put another file of its folder, or of one beside it, in its place."""
    others = [
        other for other in sorted(path.parent.parent.rglob("*")) if other.is_file() and other.suffix == path.suffix
    ]
    others = [other for other in others if other != path and other.read_bytes() != path.read_bytes()]
    path.write_bytes(draw.choice(others).read_bytes() if others else b"of another file")


def _a_number_changed(path: Path, draw: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    places = [place for place, byte in enumerate(raw) if chr(byte).isdigit()]
    place = draw.choice(places)
    raw[place] = ord("0") + (raw[place] - ord("0") + 1 + draw.randrange(9)) % 10
    path.write_bytes(bytes(raw))


def _a_key_less(path: Path, draw: random.Random) -> None:
    content = json.loads(path.read_text())
    if isinstance(content, dict):
        content.pop(draw.choice(sorted(content)))
    else:
        content.pop()
    path.write_text(json.dumps(content))


def _other_json(path: Path, draw: random.Random) -> None:
    path.write_text(draw.choice(["[]", "null", "{}", "5", '"text"']))


def _deep(path: Path, draw: random.Random) -> None:
    path.write_text("[" * 100_000)


ANY: dict[str, Damage] = {
    "cut in half": _half, "a bit flipped": _flip, "random bytes": _random_bytes, "emptied": _empty, "longer": _longer,
    "removed": _gone, "a folder in its place": _folder, "a link to nowhere": _link_to_nowhere,
    "a pipe in its place": _pipe,
    "swapped": _swapped,
}  # fmt: skip
JSON: dict[str, Damage] = {
    "a digit changed": _a_number_changed, "a key less": _a_key_less, "other JSON": _other_json,
    "nested too deeply": _deep,
}  # fmt: skip


def damages_of(path: Path) -> dict[str, Damage]:
    """Return the damages that make sense for a file of this kind, by name."""
    if path.suffix == ".json":
        return {**ANY, **JSON}
    return {**ANY, "the last number changed": _last_flipped} if path.suffix == ".safetensors" else ANY
