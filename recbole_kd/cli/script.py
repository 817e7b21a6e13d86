"""What the programs in scripts/ have in common: an error is one sentence and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from recbole_kd.errors import ConfigError, KDError


class SentenceParser(argparse.ArgumentParser):
    """argparse, but an error is one sentence without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message[:1].upper()}{message[1:]} (--help lists what is allowed)")


def exit_code(run: Callable[[list[str]], int], argv: list[str] | None = None) -> int:
    """What ``run`` answers to the arguments, those of the process when None; 2 with one sentence when the input is bad."""
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except (KDError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
