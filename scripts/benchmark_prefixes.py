#!/usr/bin/env python
"""The verb ``recbole-kd benchmark --prefixes``.

Example: `python scripts/benchmark_prefixes.py --length=50 --users=40`.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_kd.cli.program import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("benchmark", ["--prefixes", *sys.argv[1:]]))
