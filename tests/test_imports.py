"""Imports point one way, and only three files touch RecBole's modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "recbole_kd"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]
MAY_ASSIGN = tuple(f"integration/{name}.py" for name in ("register", "pickle_call_sites", "compat"))


def imports(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, wherever in it; those for type checking alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reaches(imported: str, target: str) -> bool:
    return imported == target or imported.startswith(f"{target}.")


def test_the_walk_finds_what_it_should() -> None:
    assert {"scoring/scorer.py", "training/trainer.py", "teacher/load.py", "distiller/rcekd.py"} <= set(NAMES)
    assert "recbole.trainer.Trainer" in set(imports(PACKAGE / "evaluation/full_ranking.py"))


PURE = ("ops/", "losses/", "model/bm3_loss.py", "model/hstu_attention.py", "model/hstu_encoder.py", "model/hstu_packing.py")


@pytest.mark.parametrize("name", NAMES)
def test_tensor_functions_know_nothing_of_recbole(name: str) -> None:
    if name.startswith(PURE):
        assert [found for found in imports(PACKAGE / name) if reaches(found, "recbole")] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_distiller_sees_no_recbole(name: str) -> None:
    if name.startswith("distiller/"):
        assert [found for found in imports(PACKAGE / name) if reaches(found, "recbole")] == []


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
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names if reaches(alias.name, "recbole")}
        elif isinstance(node, ast.ImportFrom) and reaches(str(node.module), "recbole"):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("name", NAMES)
def test_three_files_touch_recboles_modules(name: str) -> None:
    if name in MAY_ASSIGN:
        return
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    theirs = of_recbole(tree)
    wrong = [target for target in stored(tree) if target.split(".")[0].split("[")[0] in theirs or target.startswith("sys.modules")]
    assert wrong == [], f"{name} assigns into {wrong}"


def test_the_search_for_assignments_sees_them() -> None:
    source = "import sys\nfrom recbole.config import Config\nConfig.load = 1\nsetattr(Config, 'x', 1)\nsys.modules['a'] = 2\nx = 1\n"
    tree = ast.parse(source)
    assert sorted(stored(tree)) == ["Config", "Config", "sys.modules"]
    assert of_recbole(tree) == {"Config"}
    found = {str(path.relative_to(PACKAGE)) for path in FILES if set(stored(ast.parse(path.read_text()))) & {"Config", "sys.modules"}}
    assert found <= set(MAY_ASSIGN)


def test_no_drawer_for_everything() -> None:
    banned = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [name for name in NAMES if banned & set(Path(name).with_suffix("").parts)] == []
