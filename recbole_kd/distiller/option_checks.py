"""Ranges of a method's options, refused in one sentence that names the kd_* key.

``what`` says what the option is, or where its bounds come from; the comparisons refuse NaN as well.
"""

from __future__ import annotations

import math

from recbole_kd.errors import ConfigError


def check_between(key: str, value: float, least: float, most: float, what: str) -> None:
    """A number between two bounds, ``what`` saying where they come from."""
    if not least <= value <= most:
        raise ConfigError(f"kd_{key}={value} is not possible: it must be between {least} and {most}, {what}")


def check_share(key: str, value: float) -> None:
    """A number between 0 and 1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"kd_{key}={value} is not a share: it must be between 0 and 1")


def check_positive(key: str, value: float, what: str) -> None:
    """A finite number greater than 0."""
    if not 0 < value < math.inf:
        raise ConfigError(f"kd_{key}={value} is not {what}: it must be a finite number greater than 0")


def check_at_least(key: str, value: float, least: float, what: str) -> None:
    """A finite number not below a bound."""
    if not least <= value < math.inf:
        raise ConfigError(f"kd_{key}={value} is not {what}: it must be a finite number >= {least}")
