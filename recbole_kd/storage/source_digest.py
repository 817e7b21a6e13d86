"""The source of a model class that is neither RecBole's nor ours: what was trained with another source is another model."""

from __future__ import annotations

import inspect
from types import CodeType

from recbole_kd.storage.digests import digest

KNOWN = ("builtins", "recbole", "recbole_kd", "torch", "abc", "typing")
"""Packages whose classes change with a version, not under the user's hands."""


def own_source(kind: type) -> str | None:
    """Digest of the source of a class and of those it is derived from, as far as the user wrote them; None where that is none of them.

    A class without a source file (made in an interpreter) counts by its functions' byte code.
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
