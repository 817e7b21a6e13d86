"""Code blocks of the documentation, run in order in a folder of their own with small settings."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_kd.cli.program import main

CODE = ("python", "bash")
MARK = re.compile(r"<!-- (not run|file): (.+) -->")
SMALL = ("--epochs=1", "--teacher.epochs=1")
RUN = re.compile(r"saved/(RUN|<run>)")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: empty for plain text. line: of the fence, from 1. reason: why it is not run, None if it is. file: the
            name under which it is written for the blocks below it.
    """

    language: str
    text: str
    line: int
    reason: str | None
    file: str | None


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page; the comment directly above a fence marks it."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found, at = [], 0
    while at < len(lines):
        if not lines[at].startswith("```"):
            at += 1
            continue
        end = next(number for number in range(at + 1, len(lines)) if lines[number].startswith("```"))
        mark = MARK.fullmatch(lines[at - 1].strip()) if at else None
        kind, words = mark.groups() if mark else (None, None)
        found.append(
            Block(
                language=lines[at].removeprefix("```").strip(),
                text="\n".join(lines[at + 1 : end]) + "\n",
                line=at + 1,
                reason=words if kind == "not run" else None,
                file=words if kind == "file" else None,
            )
        )
        at = end + 1
    return found


class PageRunner:
    """Runs the blocks of one page: Python in one namespace, ``recbole-kd`` in this process.

    Args:
        run: the folder that ``saved/RUN`` stands for.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.names: dict[str, Any] = {"__name__": "__page__"}

    def __call__(self, block: Block) -> None:
        text = RUN.sub(self.run, block.text)
        if block.file is not None:
            Path(block.file).write_text(text, encoding="utf-8")
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(_smaller(text), f"block at line {block.line}", "exec"), self.names)
        elif block.language == "bash":
            for command in text.replace("\\\n", " ").splitlines():
                self._command(shlex.split(command, comments=True))

    @staticmethod
    def _command(words: list[str]) -> None:
        if not words:
            return
        assert words[0] == "recbole-kd", f"{words[0]} is not run here: mark the block as not run, with the reason"
        given = {word.split("=")[0] for word in words}
        given |= {"--teacher.epochs"} if "--teacher_path" in given else set()  # a saved teacher is not trained
        if words[1] == "compare":
            words = [re.sub(r"^--seed=.*", "--seed=0", word) for word in words]
        if words[1] in ("run", "tune", "compare"):
            words += [word for word in SMALL if word.split("=")[0] not in given]
        assert main(words[1:]) == 0, shlex.join(words)


def _smaller(text: str) -> str:
    """Return the code with one epoch for each training that names a configuration and no epochs."""
    lines = []
    for line in text.splitlines():
        if "config_dict={" in line and '"epochs"' not in line and "**keys" not in line:
            more = '"epochs": 1, ' + ('"teacher_config": {"epochs": 1}, ' if '"teacher"' in line else "")
            line = line.replace("config_dict={", f"config_dict={{{more}")
        lines.append(line)
    return "\n".join(lines) + "\n"
