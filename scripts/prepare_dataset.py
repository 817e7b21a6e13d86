#!/usr/bin/env python
"""The verb ``recbole-kd prepare``.

Example: `python scripts/prepare_dataset.py NAME --raw=DIR`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_kd.cli.program import run_verb

main = partial(run_verb, "prepare")

if __name__ == "__main__":
    sys.exit(main())
