"""Safe reading of JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recbole_kd.storage.digests import opened


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: the file is not JSON, not UTF-8 text, or nested too deeply.
        OSError: it cannot be read.
    """
    with opened(path) as stream:
        return parse_json(stream.read())


def parse_json(content: bytes) -> Any:
    """Return the content of JSON in UTF-8.

    Raises:
        ValueError: it is not JSON, not UTF-8 text, or nested too deeply.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
