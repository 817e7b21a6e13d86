"""External ids of users or items, and their positions in a student's tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from numbers import Integral, Number

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

    def places(
        self, asked: Iterable[object], unknown: str = "error", argument: str = "", skip: str = "unknown='skip'"
    ) -> np.ndarray:
        """Return the positions of external ids, int64 ``[n]``.

        Args:
            asked: the ids, as text or as numbers that are written like the text.
            unknown: ``error``, or ``skip`` to leave out ids that the student does not know.
            argument: what errors call the ids. If empty, ``users`` or ``items``.
            skip: what the caller's user types to leave unknown ids out. Empty if there is no such option.

        Raises:
            UnknownIdError: names the first unknown ids.
            ConfigError: no list of ids, an id that is neither text nor an integer, or another value of ``unknown``.
        """
        if unknown not in UNKNOWN:
            raise ConfigError(f"Invalid unknown={unknown!r}: expected error or skip. Try unknown='skip'.")
        words = _words_of(asked, argument or f"{self.kind}s", self.kind)
        missing = [(one, word) for one, word in words if word not in self._place]
        for one, _ in missing:  # also with skip: 196.0 instead of 196 would leave out everybody in silence
            if isinstance(one, bool) or not isinstance(one, str | Integral):
                raise ConfigError(
                    f"Invalid {argument or self.kind + 's'}: {one!r} ({type(one).__name__}) is not the id of any "
                    f"{self.kind} of the student. Give ids as text or integers, such as {self.tokens[-1]!r}."
                )
        if missing and unknown == "error":
            raise UnknownIdError(self._unknown([word for _, word in missing], argument, skip))
        return np.array([self._place[word] for _, word in words if word in self._place], dtype=np.int64)

    def _unknown(self, missing: Sequence[str], argument: str, skip: str) -> str:
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        names = ", ".join(repr(word) for word in missing[:NAMED])
        named = f" (in {argument})" if argument else ""
        leave = f"leave them out ({skip}), or give" if skip else "give"
        return f"The student has no {self.kind} {names}{more}{named}: {leave} ids of the data that it was trained on"


def _words_of(asked: Iterable[object], argument: str, kind: str) -> list[tuple[object, str]]:
    """Return each id beside its text.

    Raises:
        ConfigError: a text, a mapping or a table, whose iteration would give something else than ids.
    """
    listed = isinstance(asked, Iterable) and not isinstance(asked, str | bytes | Mapping)
    if not listed or getattr(asked, "ndim", 1) != 1:
        one = asked if isinstance(asked, str | Integral) and not isinstance(asked, bool) else "1"
        given = f"={asked!r}" if isinstance(asked, str | bytes | Number | None) else f" ({type(asked).__name__})"
        raise ConfigError(f"Invalid {argument}{given}: expected a list of {kind} ids. Try [{one!r}].")
    return [(one, str(one)) for one in asked]
