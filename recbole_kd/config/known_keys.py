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


SYNONYMS: dict[str, str] = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "batch_size": "train_batch_size",
    "patience": "stopping_step",
    "early_stop": "stopping_step",
    "early_stopping": "stopping_step",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "dim": "embedding_size",
    "latent_dim": "embedding_size",
    "embedding_dim": "embedding_size",
    "cuda": "use_gpu",
    "gpus": "gpu_id",
    "k": "topk",
    "out": "output_dir",
    "output": "output_dir",
    "cache": "cache_dir",
    "data": "dataset",
    "student": "model",
    "method": "kd",
    "distiller": "kd",
    "config_file_list": "config_files",
    "config": "config_files",
    "kd_lambda": "kd_weight",
    "kd_lamda": "kd_weight",
}
"""Names that other libraries and papers use -> ours; taken only if the first is not a key and the second is."""

_KEPT = (
    "each run keeps its student in a folder of its own below output_dir (fix: leave it out; --output_dir=... names "
    "another folder)"
)
ARGUMENTS: dict[str, str] = dict.fromkeys(("saved", "save", "save_model"), _KEPT)
"""Arguments of RecBole's functions and scripts that no run has as a key, and what to know instead."""


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
    if not prefix and key in ARGUMENTS:
        return f"Unknown {what} '{key}': {ARGUMENTS[key]}"
    names = frozenset(names)
    meant = _meant(key, names, prefix)
    close = [meant] if meant else close_names(prefix + key, names)
    question = f": did you mean {_or(close)}?" if close else "."
    fixes = [f"--{close[0]}=..." if close else f"remove {prefix}{key}"]
    if hint:
        fixes.append(hint)
    if may_allow:
        fixes.append(f"--allow_unknown={prefix}{key} allows it")
    return f"Unknown {what} '{prefix}{key}'{question} (fix: {'; '.join(fixes)})"


def _meant(key: str, names: frozenset[str], prefix: str) -> str | None:
    """The key that is meant by another library's name for it, or by one with the prefix of a student."""
    plain = key.removeprefix("student.").removeprefix("student_")
    candidates = (SYNONYMS.get(plain), plain if plain != key else None)
    return next((prefix + name for name in candidates if name and prefix + name in names), None)


def check_verb_keys(given: Iterable[str], own: Iterable[str], of_runs: Iterable[str]) -> None:
    """Refuse a key that nobody knows and that looks most like one of a verb's own.

    Args:
        given: keys as they are typed.
        own: keys that this verb alone reads.
        of_runs: keys of a run that are not RecBole's. The run checks them.

    Raises:
        ConfigError: with the key that is meant.
    """
    own, of_runs = frozenset(own), frozenset(of_runs)
    for key in given:
        if key in RECBOLE_KEYS or key in own or key in of_runs or key.startswith(("kd_", "teacher")):
            continue
        close = close_names(key, own | of_runs | RECBOLE_KEYS)
        if close and close[0] in own:
            raise ConfigError(_unknown_key(key, own, "key", None, False, ""))


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
