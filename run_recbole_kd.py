"""python run_recbole_kd.py --model=MF --teacher=LightGCN --kd=RCEKD --dataset=ml-100k"""

import sys

from recbole_kd.cli.run import main

if __name__ == "__main__":
    sys.exit(main())
