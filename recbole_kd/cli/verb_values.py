"""The keys of a verb that takes RecBole's style of command line, ``--KEY=VALUE``."""

from __future__ import annotations

from typing import Any

from recbole_kd.config.code_names import allows_code
from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_arguments


def verb_values(words: list[str], help_text: str) -> tuple[dict[str, Any], bool] | None:
    """Return the keys of command line and files, and whether code may be imported; or print the help.

    Args:
        words: the arguments of the verb.
        help_text: printed for ``--help`` and without arguments; then None is returned.

    Raises:
        ConfigError: an argument or a file is malformed.
    """
    values = parse_arguments(words)
    if values.get("help") or not words:
        print(help_text, end="")
        return None
    files = values.pop("config_files", None)
    return merge_sources(files, None, values), allows_code(values)
