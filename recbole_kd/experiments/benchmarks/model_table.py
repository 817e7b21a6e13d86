"""The table of the matrix of models."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping

from recbole_kd.experiments.benchmarks import model_matrix
from recbole_kd.experiments.benchmarks.model_matrix import TRAINED, Cell, Outcome


def table(found: Mapping[str, Outcome]) -> str:
    """Return the matrix as Markdown: models, sentences of refusals, the largest memory.

    A sentence that is the same for several models stands once, with MODEL in place of their names.
    """
    columns = [("teacher", "CE"), *(("student", kd) for kd in model_matrix.METHODS)]
    head = ["model", "teacher", *(f"student, {kd}" for kd in model_matrix.METHODS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    notes: dict[str, int] = {}
    for name in model_matrix.all_models():
        row = [name]
        for role, kd in columns:
            outcome = found.get(Cell(name, role, kd).key)
            row.append("not run" if outcome is None else _words(outcome, name, notes))
        lines.append("| " + " | ".join(row) + " |")
    said = [textwrap.fill(f"{number}. {text}", 120, subsequent_indent="   ") for text, number in notes.items()]
    return "\n".join([*lines, "", *said, "", _most_memory(found)]) + "\n"


def _words(outcome: Outcome, name: str, notes: dict[str, int]) -> str:
    if outcome.state == TRAINED:
        return TRAINED
    said = re.sub(rf"\b{re.escape(name)}\b", "MODEL", outcome.said)
    return f"{outcome.state} ({notes.setdefault(said, len(notes) + 1)})"


def _most_memory(found: Mapping[str, Outcome]) -> str:
    if not found:
        return "No run is in the record."
    most = max(found, key=lambda key: found[key].peak_mb)
    return (
        f"{len(found)} runs; the largest peak memory is {found[most].peak_mb:,.0f} MB ({most}), the program included."
    )
