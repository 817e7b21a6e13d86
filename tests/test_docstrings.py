"""The first line of every docstring is one plain sentence of at most 100 characters."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LONGEST = 100
OPENINGS = re.compile(r"(Of|As|What|Where|Whose|How|Which)\b")
"""Words with which a fragment opens, such as "Of the student trained alone"."""

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def faults(source: str) -> Iterator[tuple[int, str]]:
    """Yield line number and reason of each first docstring line that breaks the rule."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, DOCUMENTED):
            continue
        first = (ast.get_docstring(node) or "").partition("\n")[0]
        opening = OPENINGS.match(first)
        if opening:
            yield node.body[0].lineno, f"opens with {opening[0]!r}"
        if len(first) > LONGEST:
            yield node.body[0].lineno, f"has {len(first)} characters, at most {LONGEST} are allowed"


def sources() -> list[Path]:
    """Return all modules of the package, all scripts and the command."""
    return [*sorted((ROOT / "recbole_kd").rglob("*.py")), *sorted((ROOT / "scripts").rglob("*.py")), *ROOT.glob("*.py")]


def test_first_lines_of_docstrings_are_plain_sentences() -> None:
    paths = sources()
    assert ROOT / "recbole_kd" / "errors.py" in paths and ROOT / "run_recbole_kd.py" in paths
    found = [
        f"{path.relative_to(ROOT)}:{line}: the first docstring line {reason}"
        for path in paths
        for line, reason in faults(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("docstring", "reason"),
    [
        ("Of the student trained alone.", "opens with 'Of'"),
        ("As torch does it.", "opens with 'As'"),
        ("What a step has in common.", "opens with 'What'"),
        ("Where it goes.", "opens with 'Where'"),
        ("Whose it is.", "opens with 'Whose'"),
        ("How it is done.", "opens with 'How'"),
        ("Which of both.", "opens with 'Which'"),
        ("Return " + "x" * 94, "has 101 characters, at most 100 are allowed"),
        ("Often long, but one sentence.", None),
        ("Return " + "x" * 93 + "\n\nOf all other lines the length is free" + "x" * 100, None),
    ],
)
@pytest.mark.parametrize("kind", ["class A:", "def f():", "async def f():", "class A:\n    def f(self):"])
def test_the_check_finds_what_it_looks_for(kind: str, docstring: str, reason: str | None) -> None:
    indent = "    " * (kind.count("\n") + 1)
    source = f'{kind}\n{indent}"""{docstring}"""\n'
    line = source.count("\n", 0, source.index('"""')) + 1
    assert list(faults(source)) == ([] if reason is None else [(line, reason)])
