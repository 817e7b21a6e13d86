"""Known keys and names, and error messages for unknown ones.

RecBole returns None for a key it does not know, so with a typo it silently trains another model.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from recbole_kd.errors import ConfigError

KEYS_FILE = Path(__file__).with_name("recbole_keys.txt")

RECBOLE_KEYS: frozenset[str] = frozenset(KEYS_FILE.read_text(encoding="utf-8").split())
"""Every key of RecBole 1.2.1: those of its property files, argument lists and source."""

_model_keys: dict[str, frozenset[str]] = {}

_LISTED = 40  # names shown in an error before it points to --list


def close_names(name: str, names: Iterable[str]) -> list[str]:
    """Return up to three names that resemble a name, best first, ignoring case."""
    by_lower: dict[str, str] = {}
    for known in sorted(names):
        by_lower.setdefault(known.lower(), known)
    matches = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, match, name.lower()).ratio() for match in matches]
    # a match far behind the best one is noise: CD beside RCEKD for RCKD
    return [by_lower[match] for match, like in zip(matches, likeness, strict=True) if like > likeness[0] - 0.15]


def know_keys_of(model: str, keys: Iterable[str]) -> None:
    """Accept keys that only a user's own model reads."""
    _model_keys[model] = _model_keys.get(model, frozenset()) | frozenset(keys)


def keys_of(model: str) -> frozenset[str]:
    """Return the keys from :func:`know_keys_of`."""
    return _model_keys.get(model, frozenset())


def check_keys(
    given: Iterable[str],
    known: Iterable[str],
    *,
    what: str,
    allow: Iterable[str] = (),
    hint: str | None = None,
    may_allow: bool = True,
    prefix: str = "",
    elsewhere: Iterable[str] = (),
) -> None:
    """Refuse the first key of `given` that is neither in `known` nor in `allow`.

    Args:
        what: the kind of key, for the error: "key", "key of the teacher LightGCN".
        hint: one more hint, added to the fix.
        may_allow: False for keys that `--allow_unknown` never allows (kd_*).
        prefix: text before the key on the command line, "teacher." for a teacher's key.
        elsewhere: keys under another prefix, as they are typed: ``teacher.embedding_size`` for
            ``teacher_embedding_size``.

    Raises:
        ConfigError: names the close matches and the fix.
    """
    known = frozenset(known)
    passed = known | frozenset(allow) if may_allow else known
    for key in given:
        if key not in passed:
            raise ConfigError(
                _unknown_key(key, [*(prefix + name for name in known), *elsewhere], what, hint, may_allow, prefix)
            )


def _unknown_key(key: str, names: Iterable[str], what: str, hint: str | None, may_allow: bool, prefix: str) -> str:
    close = close_names(prefix + key, names)
    question = f": did you mean {_or(close)}?" if close else "."
    fixes = [f"--{close[0]}=..." if close else f"remove {prefix}{key}"]
    if hint:
        fixes.append(hint)
    if may_allow:
        fixes.append(f"--allow_unknown={prefix}{key} allows it")
    return f"Unknown {what} '{prefix}{key}'{question} (fix: {'; '.join(fixes)})"


def unknown_name_error(kind: str, name: object, names: Iterable[str]) -> ConfigError:
    """Return the error for an unknown model, teacher, kd, dataset, setting or protocol."""
    names = sorted(names, key=str.lower)
    shown = ", ".join(names[:_LISTED])
    if len(names) > _LISTED:
        shown += f" and {len(names) - _LISTED} more (--list shows all)"
    close = close_names(str(name), names)
    question = f"; did you mean {_or(close)}?" if close else f" (fix: --{kind.split()[0]}=one of them)."
    return ConfigError(f"Unknown {kind} '{name}': allowed are {shown or 'none'}{question}")


def _or(names: Iterable[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
