"""The tests notice small wrong changes in what results depend on."""

from __future__ import annotations

import ast

import pytest

from tests.support.mutants import MUTANTS, Mutant, run
from tests.support.paths import ROOT

SURVIVORS = 2
"""At most so many of 60 may pass unnoticed; each is named in docs/architecture.md with its reason."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}-{mutant.old[:30].strip()}")
def test_a_mutant_is_a_change_of_code_that_is_there(mutant: Mutant) -> None:
    text = (ROOT / "recbole_kd" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, "the code was changed: change the mutant too"
    changed = text.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))
    assert all((ROOT / "tests" / name).is_file() for name in mutant.tests)


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= 60


@pytest.mark.slow
def test_nearly_all_mutants_are_noticed() -> None:
    outcomes = run(MUTANTS)
    survivors = [name for name, noticed in outcomes.items() if not noticed]
    assert len(survivors) <= SURVIVORS * len(MUTANTS) // 60, survivors
