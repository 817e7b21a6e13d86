#!/usr/bin/env python
"""The verb ``recbole-kd benchmark``.

Example: `python scripts/benchmarks/benchmark.py --model=MF --kd=RCEKD --size=citeulike`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from recbole_kd.cli.program import run_verb

main = partial(run_verb, "benchmark")

if __name__ == "__main__":
    sys.exit(main())
