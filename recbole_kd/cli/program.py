"""The program ``recbole-kd``: verbs found by name, whose modules are imported on use."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from recbole_kd.cli.boundary import answer
from recbole_kd.config.known_keys import close_names
from recbole_kd.errors import ConfigError
from recbole_kd.version import __version__

DEFAULT = "run"
"""The verb if the arguments begin with a key (``recbole-kd --model=MF ...``)."""


@dataclass(frozen=True)
class Verb:
    """One job of the program.

    Attributes:
        module: module in recbole_kd.cli. Its ``run(words)`` does the job and returns the exit code.
        about: one line for the overview.
        goes_on: how to continue an interrupted job. Empty if there is nothing to continue.
    """

    module: str
    about: str
    goes_on: str = ""


RESUME = "--resume=True continues"
AGAIN = "the same command continues"

VERBS: dict[str, Verb] = {
    "run": Verb("run", "distil a teacher into a student (also without the verb)", RESUME),
    "list": Verb("list", "print models, methods and data sets"),
    "plan": Verb("plan", "print the data and settings of a run, without training"),
    "prepare": Verb("prepare", "turn raw files into RecBole's atomic files"),
    "compare": Verb("compare", "compare methods over seeds, with a table and tests", AGAIN),
    "tune": Verb("tune", "search the keys of a run on the validation metric", RESUME),
    "reproduce": Verb("reproduce", "run grids of experiments and make their tables", AGAIN),
    "report": Verb("report", "write the report.html of a run, search, comparison or grid anew"),
    "plot": Verb("plot", "draw the results of grids"),
    "export-lists": Verb("export_lists", "write a teacher's ranked lists", AGAIN),
    "convert-teacher": Verb("convert_teacher", "store a teacher's scores in another form", AGAIN),
    "import-teacher": Verb("import_teacher", "make a teacher of another system's ranked lists"),
    "inspect-teacher": Verb("inspect_teacher", "print what a teacher covers, its bias and its metrics"),
    "recommend": Verb("recommend", "write the best items of many users, from a finished student"),
    "serve": Verb("serve", "serve a finished student over HTTP"),
    "export": Verb("export", "write a finished student as vectors, FAISS index, ONNX or int8"),
    "latency": Verb("latency", "time a finished student beside its teacher"),
    "new-users": Verb("new_users", "measure how a student serves users whom it never saw", AGAIN),
    "cache": Verb("cache", "list, verify and prune the cache of trained models"),
    "benchmark": Verb("benchmark", "time an epoch of distillation and of RecBole's own training"),
}
"""The verbs by name. A new verb is a module with ``run(words)`` and an entry here."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code (:func:`answer`).

    Args:
        argv: the arguments. If None, those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        return run_verb(words[0], words[1:])
    if not words or words[0] in ("-h", "--help"):
        return answer(_overview, [])
    if words[0] == "--version":
        return answer(_version, [])
    return run_verb(DEFAULT, words)


def run_verb(name: str, argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code (:func:`answer`).

    Args:
        name: the verb.
        argv: its arguments. If None, those of the process.
    """
    verb = VERBS.get(name)
    return answer(partial(_call, name), list(sys.argv[1:] if argv is None else argv), verb.goes_on if verb else "")


def _call(name: str, words: list[str]) -> int:
    if name not in VERBS:
        close = close_names(name, VERBS)
        meant = f"Did you mean `recbole-kd {close[0]}`? " if close else ""
        raise ConfigError(f"{name!r} is not a verb of recbole-kd. {meant}The verbs are {', '.join(VERBS)}.")
    code: int = import_module(f"recbole_kd.cli.{VERBS[name].module}").run(words)
    return code


def _overview(_: list[str]) -> int:
    lines = [
        "Distil a large recommender into a small one.",
        "",
        "  recbole-kd VERB ...      see recbole-kd VERB --help",
        "",
    ]
    lines += [f"  {name:<16} {verb.about}" for name, verb in VERBS.items()]
    lines += ["", "example:", "  recbole-kd run --model=MF --teacher=LightGCN --kd=RCEKD --dataset=ml-100k"]
    lines += ["", "--debug shows the traceback of an internal error; --version prints the version."]
    print("\n".join(lines))
    return 0


def _version(_: list[str]) -> int:
    print(__version__)
    return 0
