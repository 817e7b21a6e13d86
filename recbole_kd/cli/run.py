"""The command line: arguments in, exit code out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from recbole_kd.config.parsing import parse_arguments
from recbole_kd.errors import KDError
from recbole_kd.pipeline.model_choices import listing
from recbole_kd.pipeline.quick_start import run_request
from recbole_kd.pipeline.request import make_request, merge_sources
from recbole_kd.pipeline.result_table import result_table
from recbole_kd.version import __version__

HELP = """\
Distil a large recommender into a small one.

  python run_recbole_kd.py --model=MF --teacher=LightGCN --kd=RCEKD --dataset=ml-100k

  --model=NAME --teacher=NAME --kd=NAME --dataset=NAME   what to distil into what, how, on which data; --list prints the names
  --teacher=A,B                                          several teachers (HetComp); --teacher.KEY is for all of them
  --teacher_path=FOLDER                                  a saved teacher instead of --teacher
  --kd_compare=False                                     skip the student alone
  --resume=True                                          continue an interrupted training
  --nproc=N                                              N processes train together, on CPUs or one a GPU
  --config_files='a.yaml b.yaml'                         RecBole property files
  --KEY=VALUE                                            any RecBole key of the student, such as --learning_rate=1e-3
  --kd_KEY=VALUE                                         a key of the method, such as --kd_weight=10; see properties/distiller/
  --teacher.KEY=VALUE                                    a RecBole key of the teacher, such as --teacher.embedding_size=256
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it went well, 2 after a one-sentence error."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        values = parse_arguments(words)
        if values.get("help") or not words:
            print(HELP, end="")
        elif values.get("version"):
            print(__version__)
        elif values.get("list"):
            print(listing())
        else:
            files = values.pop("config_files", None)
            command = shlex.join(["python", "run_recbole_kd.py", *words])
            result = run_request(make_request(merge_sources(files, None, values)), command)
            print(result_table(result))
    except KDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
