"""What the contracts of import-linter (pyproject.toml) cannot say.

Only the files of integration touch RecBole's modules; no drawer for everything.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import paths

PACKAGE = paths.ROOT / "recbole_kd"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]
MAY_ASSIGN = (
    *(
        f"integration/{name}.py"
        for name in (
            "register",
            "pickle_call_sites",
            "compat",
            "kd_trainers",
            "quick_start",
            "trainer_files",
            "data_errors",
        )
    ),
    "startup/module_aliases.py",
    "experiments/benchmarks/published_code.py",  # in a process of its own, for a package that the code only logs with
)


def reaches(imported: str, target: str) -> bool:
    return imported == target or imported.startswith(f"{target}.")


def stored(tree: ast.AST) -> Iterator[str]:
    """Everything that is assigned to, deleted or set by name, other than plain local names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            yield ast.unparse(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr") and node.args:
            yield ast.unparse(node.args[0])


def of_recbole(tree: ast.AST) -> set[str]:
    """Local names that stand for RecBole's modules, classes and functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name.split(".")[0] for alias in node.names if reaches(alias.name, "recbole")
            }
        elif isinstance(node, ast.ImportFrom) and reaches(str(node.module), "recbole"):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("name", NAMES)
def test_only_integration_touches_recboles_modules(name: str) -> None:
    if name in MAY_ASSIGN:
        return
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    theirs = of_recbole(tree)
    wrong = [
        target
        for target in stored(tree)
        if target.split(".")[0].split("[")[0] in theirs or target.startswith("sys.modules")
    ]
    assert wrong == [], f"{name} assigns into {wrong}"


def test_the_search_for_assignments_sees_them() -> None:
    source = (
        "import sys\nfrom recbole.config import Config\nConfig.load = 1\n"
        "setattr(Config, 'x', 1)\nsys.modules['a'] = 2\nx = 1\n"
    )
    tree = ast.parse(source)
    assert sorted(stored(tree)) == ["Config", "Config", "sys.modules"]
    assert of_recbole(tree) == {"Config"}
    found = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if set(stored(ast.parse(path.read_text()))) & {"Config", "sys.modules"}
    }
    assert found <= set(MAY_ASSIGN)


def test_no_drawer_for_everything() -> None:
    banned = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [name for name in NAMES if banned & set(Path(name).with_suffix("").parts)] == []
