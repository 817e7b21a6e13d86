#!/usr/bin/env python
"""Search the keys of a distillation with RecBole's HyperTuning or Ray Tune; --help lists the options."""

from __future__ import annotations

import sys
from pathlib import Path

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_kd.cli.tune import main

if __name__ == "__main__":
    sys.exit(main())
