"""An argument parser whose errors are one sentence."""

from __future__ import annotations

import argparse
from typing import NoReturn

from recbole_kd.config.known_keys import close_names
from recbole_kd.errors import ConfigError


class SentenceParser(argparse.ArgumentParser):
    """argparse without abbreviations, with errors of one sentence and without the usage text.

    Args:
        verb: verb of ``recbole-kd``.
        description: one line.
        examples: whole commands, shown by ``--help``.
        more: text below the examples.

    Raises:
        ConfigError: by ``parse_args``, for bad arguments.
    """

    def __init__(self, verb: str, description: str, examples: list[str], more: str = "") -> None:
        epilog = "\n".join(
            ["examples:" if len(examples) > 1 else "example:", *(f"  {line}" for line in examples), more]
        )
        super().__init__(
            prog=f"recbole-kd {verb}",
            description=description,
            epilog=epilog.rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        meant = self._meant(message)
        raise ConfigError(f"{message[:1].upper()}{message[1:]}{meant} ({self.prog} --help lists what is allowed)")

    def _meant(self, message: str) -> str:
        """The option that looks most like the first unknown one of a message."""
        _, unknown, words = message.partition("unrecognized arguments: ")
        if not unknown:
            return ""
        close = close_names(words.split()[0].partition("=")[0], self._option_string_actions)
        return f": did you mean {close[0]}?" if close else ""
