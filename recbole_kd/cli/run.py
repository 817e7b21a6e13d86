"""``recbole-kd run``: distil a teacher into a student."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from recbole_kd.cli.list import run as print_list
from recbole_kd.cli.method_asked import method_asked
from recbole_kd.cli.program import run_verb
from recbole_kd.config.merging import merge_sources
from recbole_kd.config.parsing import parse_arguments, split_config_files
from recbole_kd.config.request_names import check_typing
from recbole_kd.distiller.methods import DISTILLERS, NO_METHOD
from recbole_kd.version import __version__

HELP = """\
Distil a large recommender into a small one.

example:
  recbole-kd run --model=MF --teacher=LightGCN --kd=RCEKD --dataset=ml-100k

  --model=NAME --teacher=NAME --kd=NAME --dataset=NAME   student, teacher, method and data set; --list prints the names
  --teacher=A,B                                          several teachers (HetComp); --teacher.KEY is for all of them
  --teacher_path=FOLDER                                  a saved teacher instead of --teacher
  --kd_compare=False                                     do not train the student without a teacher
  --resume=True                                          continue an interrupted training
  --nproc=N                                              N processes train together, on CPUs or one per GPU
  --ray_address=auto                                     these processes run on the nodes of a Ray cluster
  --config_files='a.yaml b.yaml'                         RecBole property files
  --allow_code                                           let these files name a method as module:Class and import it
  --KEY=VALUE                                            any RecBole key of the student, such as --learning_rate=1e-3
  --kd_KEY=VALUE                                         a key of the method; `run --help RCEKD` lists them
  --teacher.KEY=VALUE                                    a key of the teacher, such as --teacher.embedding_size=256
  --debug                                                show the traceback of an internal error
"""


def run(words: list[str]) -> int:
    """Run the distillation, or print the help, the version or the list; return 0.

    Raises:
        KDError: bad input or a training that cannot go on.
    """
    method = method_asked(words)
    if method is not None:
        from recbole_kd.cli.method_help import method_help  # here, as below: the other answers come without PyTorch

        print(method_help(method))
        return 0
    values = parse_arguments(words)
    if values.get("help") or not words:
        print(HELP, end="")
    elif values.get("version"):
        print(__version__)
    elif values.get("list"):
        return print_list([])
    else:
        _distil(values, shlex.join(["recbole-kd", "run", *words]))
    return 0


def _distil(values: dict[str, Any], command: str) -> None:
    """Run the distillation and print its table."""
    files = split_config_files(values.pop("config_files", None))
    merged = merge_sources(files, None, values)
    if "recbole" not in sys.modules:  # else the caller may have registered models, and the whole check is as quick
        check_typing(merged, DISTILLERS, NO_METHOD)

    from recbole_kd.pipeline.quick_start import run_request
    from recbole_kd.pipeline.request import make_request
    from recbole_kd.pipeline.result_table import closing_lines, result_table
    from recbole_kd.pipeline.setting_sources import sources_of

    result = run_request(make_request(merged), command, given=sources_of(files, values))
    print(f"\n{result_table(result)}\n\n{closing_lines(result)}")


def main(argv: Sequence[str]) -> int:
    """Run the verb and return its exit code (:func:`recbole_kd.cli.boundary.answer`)."""
    return run_verb("run", argv)
