"""The method whose help a command asks for."""

from __future__ import annotations

from collections.abc import Sequence

HELP_WORDS = ("--help", "-h")


def method_asked(words: Sequence[str]) -> str | None:
    """Return the method of ``--help RCEKD`` or ``--kd=RCEKD --help``, or None."""
    if not any(word in HELP_WORDS for word in words):
        return None
    bare = [word for word in words if not word.startswith("-")]
    named = [word.removeprefix("--kd=") for word in words if word.startswith("--kd=")]
    return next(iter([*bare, *named]), None)
