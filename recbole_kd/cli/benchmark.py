"""``recbole-kd benchmark``: time distillation and RecBole's training on synthetic data."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.config.known_keys import unknown_name_error
from recbole_kd.config.parsing import parse_arguments
from recbole_kd.distiller.registry import DISTILLERS
from recbole_kd.errors import ConfigError
from recbole_kd.experiments.benchmarks.by_user import Trial, report_by_user
from recbole_kd.experiments.benchmarks.device_check import check_device
from recbole_kd.experiments.benchmarks.growth import report_growth
from recbole_kd.experiments.benchmarks.made_data import SIZES, counts_of
from recbole_kd.experiments.benchmarks.model_matrix import run_matrix
from recbole_kd.experiments.benchmarks.model_memory import memory_table, run_memory
from recbole_kd.experiments.benchmarks.model_table import table
from recbole_kd.experiments.benchmarks.peer_settings import PEERS, check_peers
from recbole_kd.experiments.benchmarks.peers import report_peers
from recbole_kd.experiments.benchmarks.prefixes import report_prefixes
from recbole_kd.experiments.benchmarks.reports import Cases, report_cases, report_sequences
from recbole_kd.experiments.benchmarks.wide import report_wide
from recbole_kd.integration.compat import quiet_warnings
from recbole_kd.storage.targets import check_file

EXAMPLES = [
    "recbole-kd benchmark --model=MF --kd=RCEKD --size=citeulike --output=bench.json",
    "recbole-kd benchmark --size=1e6x1e6x1e6 --repeats=0 --kd_candidate_index=ivf --output=large.json",
    "recbole-kd benchmark --growth --output=growth.json",
    "recbole-kd benchmark --wide --size=citeulike --width=2000 --repeats=10",
    "recbole-kd benchmark --models --output=models.json",
    "recbole-kd benchmark --peers=RCEKD --kd=RCEKD,DCD --output=peers.json",
    "recbole-kd benchmark --by_user=ml-100k --seeds=0,1,2 --epochs=8 --repeats=5 --output=by-user.json",
    "recbole-kd benchmark --device=cuda --kd=all --repeats=2 --output=gpu.json",
]

NOTES = """
Plain is RecBole's unmodified Trainer, BPR and dataloader at the same width. Both are timed in one process, epoch by
epoch in turn. A KD epoch runs from begin_epoch to the last step, without evaluation. Peak memory is that of two further
processes, with one evaluation. With --repeats=0 a case is one first epoch and one evaluation, plain and KD in separate
processes, which give both time and memory. Each phase is shown with its floor on this machine. Lists are written with
commas. Other --KEY=VALUE are keys of the KD run.

--by_user=DATASET trains on real data twice a seed, for --epochs without early stopping. It prints the seconds of an
epoch first, from some steps of four trainings in turn. --output is continued by the same command.

--peers=FOLDER runs the code in FOLDER, a clone of github.com/woriazzc/RCEKD that you bring: give only code that you
trust. It times that code and ours epoch by epoch in turn, in one process, on the same data with the same student,
teacher and settings (those published for MF on CiteULike). Nothing is written into FOLDER. --peers_steps=5 times, in
place of whole epochs, the beginning of an epoch with its first step and 5 later steps, whose mean stands for each of
the others.
"""

KEYS = "KEY"
"""Stands for the further keys of the KD runs."""

PLAIN = "cases"
"""The measurement that no option asks for: distillation beside RecBole's own training."""

READS: dict[str, tuple[str, ...]] = {
    PLAIN: ("model", "kd", "size", "width", "teacher_width", "repeats", "evaluation", "output", KEYS),
    "sequences": ("size", "repeats", "output"),
    "growth": ("repeats", "teacher_width", "output", KEYS),
    "prefixes": ("length", "users", "repeats"),
    "models": ("only", "minutes", "output"),
    "memory": ("only", "minutes", "output"),
    "peers": ("model", "kd", "size", "width", "teacher_width", "repeats", "peers_steps", "minutes", "output", KEYS),
    "wide": ("size", "width", "repeats", "output"),
    "by_user": ("model", "seeds", "repeats", "output", KEYS),
    "device": ("model", "kd", "size", "width", "teacher_width", "repeats", "minutes", "output", KEYS),
}
"""Measurement -> the options that it reads; all but the first are named by an option."""


def _parser() -> SentenceParser:
    parser = SentenceParser(
        "benchmark", "Time distillation and RecBole's own training, and measure their memory.", EXAMPLES, NOTES
    )
    add = parser.add_argument
    add("--model", help="student, or several with commas (default: MF, with --by_user SASRec)")
    add(
        "--kd",
        help="method, several with commas, or all (default: RCEKD, with --peers all that the published code has)",
    )
    add("--size", default="citeulike", help=f"{', '.join(SIZES)}, USERSxITEMSxINTERACTIONS, or several with commas")
    add("--width", type=int, default=20, help="width of the students' vectors")
    add("--teacher_width", type=int, help="width of the teacher's vectors: 400, for gowalla 2000, for large sizes 64")
    add("--repeats", type=int, default=5)
    add(
        "--evaluation",
        action="store_true",
        help="also time full-ranking evaluation, and RecBole's with its default batch size",
    )
    add("--output", type=Path, metavar="FILE", help="gets the metrics as JSON")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--sequences", action="store_true", help="time HSTU and SASRec, plain and distilled, instead of --model, --kd"
    )
    other.add_argument(
        "--growth", action="store_true", help="growth of cost with users, items, interactions, K, L and d, as Markdown"
    )
    other.add_argument(
        "--prefixes", action="store_true", help="time the encoding of prefixes together and separately, on ml-100k"
    )
    other.add_argument(
        "--models", action="store_true", help="run every RecBole model as teacher and as student, and print their table"
    )
    other.add_argument(
        "--memory", action="store_true", help="peak memory of every RecBole model on 1,000 users and 2,000 items"
    )
    other.add_argument(
        "--peers", type=Path, metavar="FOLDER", help="run the published code in FOLDER and time it beside ours"
    )
    add(
        "--peers_steps",
        type=int,
        help="with --peers: scale an epoch from its beginning and so many steps, instead of --repeats whole epochs",
    )
    other.add_argument(
        "--wide", action="store_true", help="time steps (--repeats) of LightGCN of --width, RecBole's own and ours"
    )
    other.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="check the methods of --kd on this device within --minutes (10), with MF of RecBole's own epochs beside",
    )
    other.add_argument(
        "--by_user",
        metavar="DATASET",
        help="validation NDCG@10 by epoch of --train_by_user and of RecBole's rows, and steps (--repeats) of both",
    )
    add("--only", default="", help="with --models, --memory: names of models with commas")
    add(
        "--minutes",
        type=float,
        help="with --models, --memory: begin no run after so many, the same command continues; with --peers: limit of "
        "a method; with --device: limit of all methods",
    )
    add("--seeds", default="0,1,2", help="with --by_user: seeds of the trainings")
    add("--length", type=int, default=50, help="with --prefixes: length of a history")
    add("--users", type=int, default=40, help="with --prefixes: number of users whose prefixes are encoded")
    return parser


def parse(words: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the benchmark's own arguments, and the keys of the KD runs.

    Raises:
        ConfigError: a number is too small, or a size or method is unknown.
        TargetError: the output cannot be written.
    """
    parser = _parser()
    known, rest = parser.parse_known_args(words)
    for key, least in (
        ("width", 1),
        ("teacher_width", 1),
        ("repeats", 0),
        ("length", 1),
        ("users", 1),
        ("peers_steps", 1),
    ):
        value = getattr(known, key)
        if value is not None and value < least:
            raise ConfigError(f"--{key}={value} is not allowed: it must be a whole number of at least {least}")
    if known.minutes is not None and not known.minutes > 0:
        raise ConfigError(f"--minutes={known.minutes:g} is not allowed: it must be a number greater than 0")
    for size in known.size.split(","):
        counts_of(size)
    options = parse_arguments(rest)
    given = [name for name, value in vars(known).items() if value != parser.get_default(name)]
    _check_read(given, options)
    known.model = known.model or ("SASRec" if known.by_user else "MF")
    known.seeds = _seeds(known.seeds)
    every, usual = (PEERS, "all") if known.peers else (DISTILLERS, "RCEKD")
    known.kd = known.kd or usual
    known.methods = list(every) if known.kd == "all" else known.kd.split(",")
    for kd in known.methods:
        if kd not in (*DISTILLERS, "alone"):
            raise unknown_name_error("kd", kd, list(DISTILLERS))
    for mode in ("device", "wide"):
        if getattr(known, mode) and "," in known.size:
            raise ConfigError(f"--size={known.size} is not possible with --{mode}: expected one size")
    for mode in ("peers", "device"):
        if getattr(known, mode) and known.model != "MF":
            raise ConfigError(f"--model={known.model} is not possible with --{mode}: expected MF")
    if known.peers_steps and "repeats" in given:
        raise ConfigError(f"--repeats={known.repeats} has no effect with --peers_steps: leave it out")
    if known.peers:
        check_peers(known.peers, known.methods, options)
    continued = (known.models or known.memory or known.by_user) and known.output is not None and known.output.is_file()
    if known.output is not None and not continued:
        check_file(known.output, option="--output")
    return known, options


def _check_read(given: Collection[str], keys: Collection[str]) -> None:
    """Refuse options that the measurement asked for would not read (ConfigError).

    Args:
        given: names of the options that differ from their defaults. keys: those of the KD runs.
    """
    asked = next((name for name in READS if name in given), PLAIN)
    reads = READS[asked]
    unread = [name for name in given if name not in (asked, *reads)] + [key for key in keys if KEYS not in reads]
    if not unread:
        return
    if asked != PLAIN:
        raise ConfigError(f"--{unread[0]} has no effect with --{asked}: leave it out")
    homes = " or ".join(f"--{name}" for name, own in READS.items() if unread[0] in own)
    raise ConfigError(f"--{unread[0]} has no effect without {homes}: leave it out")


def _seeds(words: str) -> list[int]:
    """Return the numbers of ``--seeds``."""
    if not all(word.isdecimal() for word in words.split(",")):
        raise ConfigError(f"--seeds={words} is not allowed: expected whole numbers with commas, such as 0,1,2")
    return [int(word) for word in words.split(",")]


def _report_models(given: argparse.Namespace) -> None:
    """Run the models that --output does not hold yet, and print their table."""
    names = [name for name in given.only.split(",") if name]
    limit = None if given.minutes is None else 60 * given.minutes
    record = (given.output or Path("memory.json" if given.memory else "models.json")).absolute()
    print(memory_table(run_memory(names, record, limit)) if given.memory else table(run_matrix(names, record, limit)))


def run(words: list[str]) -> int:
    """Measure and print what the arguments ask for; return 0, or 1 if a method fails on a --device.

    Raises:
        KDError: bad input, or a measurement that failed.
    """
    given, options = parse(words)
    with quiet_warnings():
        return _measure(given, options)


def _measure(given: argparse.Namespace, options: dict[str, Any]) -> int:
    """Measure what the parsed arguments ask for, and return the exit code."""
    sizes = given.size.split(",")
    if given.sequences:
        report_sequences(sizes, given.repeats, given.output)
    elif given.growth:
        report_growth(given.repeats, given.teacher_width, given.output, options)
    elif given.wide:
        report_wide(sizes[0], given.width, given.repeats, given.output)
    elif given.models or given.memory:
        _report_models(given)
    elif given.by_user:
        report_by_user(Trial(given.model, given.by_user, options), given.seeds, given.repeats, given.output)
    elif given.prefixes:
        report_prefixes(given.length, given.users, given.repeats)
    else:
        kept = (given.width, given.teacher_width, given.repeats, given.evaluation)
        wanted = Cases(given.model.split(","), given.methods, sizes, *kept, options)
        if given.device:
            minutes = 10.0 if given.minutes is None else given.minutes
            return 0 if check_device(given.device, wanted, minutes, given.output) else 1
        if given.peers:
            report_peers(given.peers, wanted, given.minutes, given.output, given.peers_steps or 0)
        else:
            report_cases(wanted, given.output)
    return 0
