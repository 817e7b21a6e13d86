"""``recbole-kd latency``: time a finished student and its teacher on this machine."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.serving.latency import BATCHES, Rank, ranker, rows_of, timed
from recbole_kd.serving.student import Student, load_student
from recbole_kd.serving.teacher_scores import teacher_scores
from recbole_kd.storage.files import write_json
from recbole_kd.storage.json_files import read_json
from recbole_kd.storage.targets import check_file
from recbole_kd.version import __version__

EXAMPLES = [
    "recbole-kd latency saved/RUN",
    "recbole-kd latency saved/RUN --teacher_path=saved/cache/teacher/NAME --threads=1 --out=latency.json",
]
MORE = """
A call takes users to their top lists: it encodes the histories for a sequential model, scores the catalogue, leaves out
the items that each user had and takes the k best. Student and teacher are called in turns."""


def _parser() -> SentenceParser:
    parser = SentenceParser("latency", "Time a finished student and its teacher on this machine.", EXAMPLES, MORE)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the folder of a run, or of its student")
    add("--teacher_path", type=Path, metavar="DIR", help="the folder of the teacher (default: that of the run)")
    add("--k", type=int, default=10, help="items per user (default: 10)")
    add("--threads", type=int, help="threads of torch (default: unchanged)")
    add("--seconds", type=float, default=2.0, help="timed seconds for each model and batch size (default: 2)")
    add("--out", type=Path, metavar="FILE", help="a new JSON file that also gets the results")
    return parser


def run(words: list[str]) -> int:
    """Print the latencies; return 0.

    If the run's teacher cannot be timed, the output says so.

    Raises:
        KDError: bad input, or a teacher given by path that cannot be timed.
    """
    given = _parser().parse_args(words)
    _check(given)
    student = load_student(given.run)
    rankers: dict[str, Rank] = {f"student {student.config['model']}": ranker(student, student.scores, given.k)}
    teachers, missing = _teachers(given, student)
    rankers |= {f"teacher {name}": ranker(student, scores, given.k) for name, scores in teachers}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(given.threads or threads)
        found = [one for batch in BATCHES for one in timed(rankers, len(student.users), batch, given.seconds)]
        content = {**_machine(), "k": given.k, "users": len(student.users) - 1, "items": len(student.items) - 1}
    finally:
        torch.set_num_threads(threads)
    content |= {"teacher_missing": missing or None, "latency": rows_of(found)}
    print(latency_table(content))
    if given.out is not None:
        write_json(given.out, content)
        print(given.out)
    return 0


def _check(given: argparse.Namespace) -> None:
    for name, least in (("k", 1), ("threads", 1)):
        value = getattr(given, name)
        if value is not None and value < least:
            raise ConfigError(f"Invalid --{name}={value}: expected a whole number of at least {least}. Try --{name}=1.")
    if not 0 < given.seconds <= 600:
        raise ConfigError(f"Invalid --seconds={given.seconds}: expected more than 0 and at most 600. Try --seconds=2.")
    if given.out is not None:
        check_file(given.out, option="--out")


def _teachers(given: argparse.Namespace, student: Student) -> tuple[list[tuple[str, Any]], str]:
    """Return the teachers that can be timed, and a sentence on those that cannot."""
    if given.teacher_path is not None:
        return [teacher_scores(given.teacher_path, student)], ""
    found, said = [], []
    for path in _paths(given.run):
        try:
            found.append(teacher_scores(path, student))
        except TeacherError as error:
            said.append(f"The run's teacher is not timed: {error}.")
    if not found and not said:
        said = ["The run's teacher is not timed: no result.json names it. Name its folder by --teacher_path."]
    return found, " ".join(said)


def _paths(run: Path) -> list[Path]:
    """Return the folders of the run's teachers, from its result.json."""
    path = next((path for path in (run / "result.json", run.parent / "result.json") if path.is_file()), None)
    if path is None:
        return []
    try:
        teacher = read_json(path)["teacher"]
        members = teacher.get("members") or [teacher]
        return [Path(one["path"]) for one in members if one.get("path")]
    except (ValueError, OSError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{path} is not a result of a run: name the teacher's folder by --teacher_path") from None


def _machine() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "device": "cpu",
        "versions": {"recbole_kd": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def latency_table(content: Mapping[str, Any]) -> str:
    """Return latencies as a table, with a line on the machine."""
    headers = ["", "batch", "p50 ms", "p95 ms", "p99 ms", "users/s", "calls"]
    rows = [
        [
            one["name"],
            one["batch"],
            *(f"{one[f'{name}_ms']:.3f}" for name in ("p50", "p95", "p99")),
            f"{one['users_per_second']:,.0f}",
            one["calls"],
        ]
        for one in content["latency"]
    ]
    table = tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", *["right"] * 6))
    line = (
        f"top {content['k']} of {content['items']:,} items, {content['threads']} threads on {content['cpus']} CPUs, "
        f"torch {content['versions']['torch']}"
    )
    return "\n".join(filter(None, [table, line, content["teacher_missing"]]))
