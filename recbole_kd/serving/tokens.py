"""External ids of users or items, and their positions in a student's tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from recbole_kd.errors import ConfigError, UnknownIdError

PAD = "[PAD]"
NAMED = 5
"""Number of unknown ids that an error names."""
UNKNOWN = ("error", "skip")


class Tokens:
    """External ids in the order of the student's tables.

    Args:
        kind: ``user`` or ``item``.
        tokens: the external ids. The first one is the pad.
    """

    def __init__(self, kind: str, tokens: Sequence[str]) -> None:
        self.kind, self.tokens = kind, list(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._place

    @cached_property
    def _place(self) -> dict[str, int]:
        return {token: place for place, token in enumerate(self.tokens) if place}

    def of(self, places: np.ndarray) -> np.ndarray:
        """Return the external ids at some positions, int64 ``[n]`` -> object ``[n]``."""
        found: np.ndarray = np.array(self.tokens, dtype=object)[places]
        return found

    def places(self, asked: Iterable[object], unknown: str = "error") -> np.ndarray:
        """Return the positions of external ids, int64 ``[n]``.

        Args:
            asked: the ids, as text or as numbers that are written like the text.
            unknown: ``error``, or ``skip`` to leave out ids that the student does not know.

        Raises:
            UnknownIdError: names the first unknown ids.
            ConfigError: a text instead of a list, or another value of ``unknown``.
        """
        if unknown not in UNKNOWN:
            raise ConfigError(f"Invalid unknown={unknown!r}: expected error or skip. Try unknown='skip'.")
        if isinstance(asked, str | bytes) or not isinstance(asked, Iterable):
            raise ConfigError(f"Invalid {self.kind}s={asked!r}: expected a list of {self.kind} ids. Try [{asked!r}].")
        words = [str(one) for one in asked]
        missing = [word for word in words if word not in self._place]
        if missing and unknown == "error":
            more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
            names = ", ".join(repr(word) for word in missing[:NAMED])
            raise UnknownIdError(
                f"The student has no {self.kind} {names}{more}: leave them out (unknown='skip'), or give ids of "
                "the data that it was trained on"
            )
        return np.array([self._place[word] for word in words if word in self._place], dtype=np.int64)
