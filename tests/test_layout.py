"""Tests mirror the packages, share code through tests/support only, and reach scripts as a user does."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.support.paths import ROOT

TESTS = ROOT / "tests"
NOT_PACKAGES = {"support", "reference", "campaign", "docs", "__pycache__"}


def test_every_folder_of_tests_is_a_package_of_the_library() -> None:
    folders = {path.name for path in TESTS.iterdir() if path.is_dir()} - NOT_PACKAGES
    packages = {path.parent.name for path in (ROOT / "recbole_kd").glob("*/__init__.py")}
    assert folders
    assert folders <= packages, folders - packages


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements, at any depth; :func:`ast.walk` also visits what they are made of, which takes seconds."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, field, [])


def test_no_test_imports_another_test() -> None:
    found = []
    for path in TESTS.rglob("*.py"):
        for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [f"{path.name} imports {name}" for name in names if ".test_" in f".{name}"]
    assert not found, found
