"""Every model of RecBole as teacher and as student, on a tiny made data set.

Each cell is a run in a forked child of one warmed process, so that imports are paid once. It is trained, or refused in
one sentence before anything is trained, or it is a fault.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import get_model

from recbole_kd.config.merging import merge_sources
from recbole_kd.config.model_catalogue import recbole_defaults
from recbole_kd.config.schema import DEFAULT_WEIGHT
from recbole_kd.errors import ConfigError, KDError
from recbole_kd.evaluation.efficiency import in_mb
from recbole_kd.pipeline.model_choices import ranking_models, side_models
from recbole_kd.pipeline.plan import make_plan
from recbole_kd.pipeline.quick_start import run_request
from recbole_kd.pipeline.request import make_request
from recbole_kd.storage.files import write_text_whole

N_USERS, N_ITEMS = 60, 120
NAME = "matrix"
SECONDS = 120
"""Limit of a cell, in seconds of processor time: a busy machine changes no outcome."""

WALL = 20
"""A cell that is not done after so many times its limit hangs."""

TRAINED, REFUSED, LATE, FAULT, SLOW = "trained", "refused", "refused late", "fault", "out of time"
METHODS = ("CE", "FullCE", "HetComp", "DE", "RCEKD")
"""Methods that each student is distilled by: on lists, on the whole catalogue, with trajectories, on vectors."""

SHORT: dict[str, Any] = {
    "epochs": 1,
    "teacher.epochs": 1,
    "train_batch_size": 256,
    "teacher.train_batch_size": 256,
    "kd_compare": False,
    "show_progress": False,
    "use_gpu": False,
    "state": "ERROR",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]},
}
SMALL = {
    "embedding_size": 16,
    "kg_embedding_size": 16,
    "hidden_size": 16,
    "inner_size": 16,
    "mlp_hidden_size": [16],
    "MAX_ITEM_LIST_LENGTH": 10,
    "cnn_channels": [1, 8, 8],
    "cnn_kernels": [4, 4],
    "cnn_strides": [4, 4],
}
"""Sizes that a model gets where RecBole has a key for them: a cell is about what is possible, not about quality."""

OF_METHOD: dict[str, dict[str, Any]] = {
    "CE": {"kd_k": 10},
    "HetComp": {"kd_k": 10},
    "RCEKD": {"kd_k": 10, "kd_n_samples": 10, "kd_candidates": 20},
}


@dataclass(frozen=True)
class Cell:
    """A run of the matrix.

    Attributes:
        model: the model in question.
        role: ``teacher`` or ``student``.
        kd: the method.
        small: whether the models get small sizes, else those that they have by default.
    """

    model: str
    role: str
    kd: str
    small: bool = True

    @property
    def key(self) -> str:
        """Name of the cell in the record."""
        return f"{self.model} {self.role} {self.kd}"

    def values(self, folder: Path) -> dict[str, Any]:
        """Return the keys of the run; ``folder`` holds the data and gets what it writes."""
        sequential = issubclass(get_model(self.model), SequentialRecommender) or self.model == "HSTU"
        usual = ("SASRec", "SASRec") if sequential else ("MF", "LightGCN")
        model, teacher = (usual[0], self.model) if self.role == "teacher" else (self.model, usual[1])
        sizes = ("train_batch_size", "teacher.train_batch_size")
        return {
            **{key: value for key, value in SHORT.items() if self.small or key not in sizes},
            **(_small(model) if self.small else {}),
            **{f"teacher.{key}": value for key, value in (_small(teacher) if self.small else {}).items()},
            **OF_METHOD.get(self.kd, {}),
            "model": model,
            "teacher": teacher,
            "kd": self.kd,
            "dataset": NAME,
            "kd_weight": DEFAULT_WEIGHT,
            "setting": "sequential" if sequential else "general",
            "data_path": str(folder / "data"),
            "cache_dir": str(folder / "cache"),
            "output_dir": str(folder / "runs"),
        }


def _small(model: str) -> dict[str, Any]:
    """Return the small sizes of a model, those of histories only if it reads them."""
    known = recbole_defaults(model, NAME)
    histories = issubclass(get_model(model), SequentialRecommender)
    return {key: value for key, value in SMALL.items() if key in known and (histories or key != "MAX_ITEM_LIST_LENGTH")}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell.

    Attributes:
        state: one of the states above.
        said: the sentence of a refusal, or the last line of a fault.
        seconds: of the run.
        peak_mb: peak memory of the child in MiB, the warmed process included.
    """

    state: str
    said: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0


def write_data(folder: Path, n_users: int = N_USERS, n_items: int = N_ITEMS, colours: int = 3) -> None:
    """Write interactions by colour of users and items, with times, columns and a graph of the items.

    A user has four fifths of the items of a colour, so about ``n_items / colours``.
    """
    place = folder / "data" / NAME
    place.mkdir(parents=True, exist_ok=True)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(n_users):
        liked = [i for i in range(n_items) if (i + user) % colours == 0 and (7 * i + 3 * user) % 5]
        rows += [f"u{user}\ti{item}\t{n_items * user + (17 * item) % n_items}" for item in liked]
    write_text_whole(place / f"{NAME}.inter", "\n".join(rows) + "\n")
    items = "".join(f"i{item}\tc{item % 3} c{item % 4}\n" for item in range(n_items))
    write_text_whole(place / f"{NAME}.item", "item_id:token\tclass:token_seq\n" + items)
    triples = "".join(f"e{item}\tcolour\tc{item % 3}\ne{item}\tkind\tk{item % 7}\n" for item in range(n_items))
    write_text_whole(place / f"{NAME}.kg", "head_id:token\trelation_id:token\ttail_id:token\n" + triples)
    links = "".join(f"i{item}\te{item}\n" for item in range(n_items))
    write_text_whole(place / f"{NAME}.link", "item_id:token\tentity_id:token\n" + links)


def all_models() -> list[str]:
    """Return the general and sequential models, then those that learn from further data."""
    return [*ranking_models(), *side_models()]


def cells_of(only: Iterable[str] = ()) -> list[Cell]:
    """Return the cells of all models, or of some: one as teacher, one for each method as student.

    Raises:
        ConfigError: one of the names is not a model of these families.
    """
    known = all_models()
    names = list(only) or known
    for name in names:
        if name not in known:
            raise ConfigError(f"--only={name} is not a model of RecBole that ranks: choose among {', '.join(known)}")
    teachers = [Cell(name, "teacher", "CE") for name in names]
    return teachers + [Cell(name, "student", kd) for kd in METHODS for name in names]


def outcome_of(cell: Cell, folder: Path) -> Outcome:
    """Run a cell in this process."""
    started, planned = time.perf_counter(), False
    try:
        request = make_request(merge_sources(None, None, cell.values(folder)))
        make_plan(request)
        planned = True
        run_request(request)
        state, said = TRAINED, ""
    except KDError as error:
        state, said = LATE if planned else REFUSED, " ".join(str(error).split())
    except Exception as error:
        state, said = FAULT, fault_words(error)
    return Outcome(state, said, time.perf_counter() - started)


def fault_words(error: Exception) -> str:
    """Print the traceback of a fault, and return it in one line."""
    traceback.print_exc()
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def in_child(work: Callable[[], Outcome], folder: Path, seconds: float = SECONDS) -> Outcome:
    """Run a cell's work in a forked child, whose standard streams go to a log file.

    Args:
        work: returns the outcome.
        folder: gets the log and the child's answer.
        seconds: of processor time, after which the child is ended.

    Raises:
        ConfigError: this system cannot fork.
    """
    if not hasattr(os, "fork"):
        raise ConfigError("The matrix of models needs a system that can fork, such as Linux or macOS")
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            _limit_processor_time(seconds)
            answer.write_text(json.dumps(asdict(work())))
            code = 0
        finally:  # whatever happens, this process does not go on as its parent
            os._exit(code)
    return _answer_of(child, answer, seconds)


def _limit_processor_time(seconds: float) -> None:
    """Let the system end this process after so many further seconds of processor time."""
    import resource  # systems that can fork have it

    limit = max(1, int(time.process_time() + seconds))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))


def _answer_of(child: int, answer: Path, seconds: float) -> Outcome:
    """Wait for a child and read its answer; one that takes too long is ended."""
    until = time.monotonic() + WALL * seconds
    ended, status, used = 0, 0, None
    while not ended:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if not ended and time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            ended, status, used = os.wait4(child, 0)
        time.sleep(0.05)
    peak_mb = in_mb(used.ru_maxrss) if used else 0.0
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return Outcome(SLOW, f"not done after {seconds:.0f} seconds of processor time", seconds, peak_mb)
    if not answer.is_file():
        return Outcome(FAULT, "the process ended without an answer", peak_mb=peak_mb)
    return replace(Outcome(**json.loads(answer.read_text())), peak_mb=peak_mb)


def run_matrix(only: Iterable[str], record: Path, seconds: float | None = None) -> dict[str, Outcome]:
    """Run the cells of the matrix that a record does not hold yet.

    Args:
        only: names of models; empty for all.
        record: JSON file, cell -> outcome; an interrupted matrix continues from it.
        seconds: begin no cell after so long; None has no limit.
    """
    with tempfile.TemporaryDirectory(prefix="recbole-kd-matrix-") as name:
        folder = Path(name)
        write_data(folder)
        work = {cell.key: partial(outcome_of, cell, folder) for cell in cells_of(only)}
        return run_cells(work, folder, record, seconds)


def run_cells(
    work: Mapping[str, Callable[[], Outcome]], folder: Path, record: Path, seconds: float | None, limit: float = SECONDS
) -> dict[str, Outcome]:
    """Run the cells that a record does not hold yet, and keep each in it as soon as it is done.

    Args:
        work: what returns the outcome of each cell, run in a child process.
        folder: the current folder of the children.
        record: JSON file, cell -> outcome.
        seconds: begin no cell after so long; None has no limit.
        limit: seconds of processor time of a cell.
    """
    found, started, before = _read(record), time.monotonic(), Path.cwd()
    os.chdir(folder)
    try:
        for key, run in work.items():
            if key in found:
                continue
            if seconds is not None and time.monotonic() - started > seconds:
                break
            found[key] = in_child(run, folder, limit)
            print(f"{key}: {found[key].state} {found[key].said[:120]}", flush=True)
            write_text_whole(record, json.dumps({name: asdict(one) for name, one in found.items()}, indent=1))
    finally:
        os.chdir(before)
    return found


def _read(record: Path) -> dict[str, Outcome]:
    """Return the outcomes of a record, none if it is not there.

    Raises:
        ConfigError: the file holds something else.
    """
    if not record.is_file():
        return {}
    try:
        return {key: Outcome(**values) for key, values in json.loads(record.read_text(encoding="utf-8")).items()}
    except (ValueError, TypeError, AttributeError):
        raise ConfigError(f"--output={record} is not the record of a matrix of models: name another file") from None
