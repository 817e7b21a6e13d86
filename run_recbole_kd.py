"""The verb ``recbole-kd run``.

Example: `python run_recbole_kd.py --model=MF --teacher=LightGCN --kd=RCEKD --dataset=ml-100k`.
"""

import sys
from functools import partial

from recbole_kd.cli.program import run_verb

main = partial(run_verb, "run")

if __name__ == "__main__":
    sys.exit(main())
