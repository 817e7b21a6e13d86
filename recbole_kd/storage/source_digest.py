"""Hash user-defined model code, so that editing it invalidates cached trainings."""

from __future__ import annotations

import inspect
from types import CodeType

from recbole_kd.storage.digests import digest

KNOWN = ("builtins", "recbole", "recbole_kd", "torch", "abc", "typing")
"""Packages whose classes change only with their version, not by the user."""


def own_source(kind: type) -> str | None:
    """Return the digest of the user's source of a class and its base classes, or None.

    None means that the user wrote none of them. A class without a source file (made in an interpreter) is hashed by the
    byte code of its functions.
    """
    own = [part for part in kind.__mro__ if part.__module__.partition(".")[0] not in KNOWN]
    return digest(*(_text(part) for part in own)) if own else None


def _text(kind: type) -> bytes:
    try:
        return inspect.getsource(kind).encode()
    except (OSError, TypeError):
        return b"".join(_code(value.__code__) for _, value in sorted(vars(kind).items()) if inspect.isfunction(value))


def _code(code: CodeType) -> bytes:
    plain = [constant for constant in code.co_consts if not isinstance(constant, CodeType)]
    inner = [_code(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return b"".join([code.co_name.encode(), code.co_code, repr((plain, code.co_names)).encode(), *inner])
