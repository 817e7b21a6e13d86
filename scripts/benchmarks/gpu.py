#!/usr/bin/env python
"""Checklist of a GPU: every method beside plain epochs, in under 10 minutes.

Example: `python scripts/benchmarks/gpu.py --output=gpu.json`. It is `recbole-kd benchmark --device=cuda --kd=all`.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from recbole_kd.cli.program import run_verb


def main(words: list[str] | None = None) -> int:
    """Run the checklist with the words of the command line, which override its defaults."""
    given = sys.argv[1:] if words is None else words
    return run_verb("benchmark", ["--device=cuda", "--kd=all", "--repeats=2", *given])


if __name__ == "__main__":
    sys.exit(main())
