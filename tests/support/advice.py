"""What a refusal says to type, and whether it is accepted."""

from __future__ import annotations

import re
import shlex

import pytest

from recbole_kd.cli.program import run_verb

KEY = re.compile(r"""(?:--)?[\w.]+=(?:\[[^\]]*\]|\{[^}]*\}|'[^']*'|"[^"]*"|[^\s,;)]+)""")


def advice_in(line: str) -> list[list[str]]:
    """The ways out that a sentence names, each the words of one or more keys that stand side by side.

    One with a gap to fill in, such as ``<its parent folder>``, is left out.
    """
    found = []
    for verb in re.finditer(r"\b(?:Try|[Tt]ake|[Ss]et|with(?= --teacher_)) (?=(?:--)?[\w.]+=)", line):
        at, way = verb.end(), list[str]()
        while (key := KEY.match(line, at)) is not None:
            way.append("--" + _without_quotes(key[0].rstrip(".")).removeprefix("--"))
            at = key.end() + 1
        found += [way] if not any("<" in word for word in way) else []
    return found


def _without_quotes(word: str) -> str:
    """The word as a shell passes it on; brackets outside quotes hold spaces."""
    key, _, value = word.partition("=")
    return f"{key}={shlex.split(value)[0]}" if value[0] in "'\"" else word


def overridden(given: list[str], advice: list[str]) -> list[str]:
    keys = {word.split("=")[0] for word in advice}
    return [word for word in given if word.split("=")[0] not in keys] + advice


def follow(line: str, given: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    """Plan the refused run with each way out that the sentence names, and return their number."""
    ways = advice_in(line)
    for way in ways:
        code = run_verb("plan", overridden(given, way))
        said = capsys.readouterr().err
        assert code == 0, f"{line}\n{way}\n{said}"
    return len(ways)
