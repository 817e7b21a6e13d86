"""``python -m recbole_kd`` is the program ``recbole-kd``."""

import sys

from recbole_kd.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
