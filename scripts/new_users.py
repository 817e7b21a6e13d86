#!/usr/bin/env python
"""Measure how a student serves users whom it never saw: the verb ``recbole-kd new-users``.

Example: `python scripts/new_users.py --model=MF --dataset=ml-100k --folder=new-users`
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_kd.cli.program import run_verb

main = partial(run_verb, "new-users")

if __name__ == "__main__":
    sys.exit(main())
