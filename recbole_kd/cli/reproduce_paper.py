"""``recbole-kd reproduce paper``: the paper's tables and figures beside our runs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from recbole_kd.cli.parser import SentenceParser
from recbole_kd.config.validation import invalid, try_value
from recbole_kd.experiments.paper.cells import Choice, Paper, read_paper
from recbole_kd.experiments.paper.data_check import check_data
from recbole_kd.experiments.paper.matching import read_finished
from recbole_kd.experiments.paper.page import MARK, page
from recbole_kd.experiments.paper.progress import Progress, grid_of, progress, time_in_words
from recbole_kd.experiments.runner import run_grid
from recbole_kd.storage.cache import cache_folder
from recbole_kd.storage.files import write_text_whole
from recbole_kd.storage.places import user_path
from recbole_kd.storage.targets import check_file, holds_text

WORD = "paper"
"""The word in the place of a grid that asks for the paper."""

PAGE = Path("docs") / "reproduction.md"
EXAMPLES = [
    "recbole-kd reproduce paper --table=1 --data=citeulike --plan",
    "recbole-kd reproduce paper --table=1 --data=citeulike --pair=MF-MF --method=RCE-KD --seeds=0",
    "recbole-kd reproduce paper --page",
]


def _parser() -> SentenceParser:
    parser = SentenceParser(
        "reproduce paper",
        "List what is done of the paper's tables and figures, run what is missing, write docs/reproduction.md.",
        EXAMPLES,
        "\nSeveral names are separated by commas. Nothing named means all.",
    )
    add = parser.add_argument
    add("--table", metavar="N", help="tables of the paper: 1, 7, 8, 9, 10, 12, 15")
    add("--figure", metavar="N", help="figures of the paper: 3, 5, 6, 7, 8")
    add("--data", metavar="NAME", help="data sets: citeulike, gowalla, yelp2018, netflix, tiktok, electronics")
    add("--pair", metavar="TEACHER-STUDENT", help="pairs, such as LightGCN-MF")
    add("--method", metavar="ROW", help="rows of the tables, such as RCE-KD or w/o T")
    add("--seeds", metavar="N", help="seeds that a cell needs (default: 0,1,2,3,4, as many as the paper's runs)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--plan", action="store_true", help="only list: what is done, what is missing, the time")
    mode.add_argument("--run", action="store_true", help="list, run what is missing, write the page (the default)")
    mode.add_argument("--page", action="store_true", help="only write the page, from the results that are there")
    add("--exact", action="store_true", help="count only results with exactly the published settings and data as done")
    add("--other_data", action="store_true", help="also count and run cells on data that are not the paper's")
    add(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of the results (default: results/)"
    )
    add("--page_file", type=Path, default=PAGE, metavar="FILE", help=f"the page (default: {PAGE})")
    add("--data_path", default="dataset/", metavar="DIR", help="folder of the prepared data sets (default: dataset/)")
    add("--output_dir", default="saved", metavar="DIR", help="logs and checkpoints (default: saved/)")
    add("--ray_address", metavar="ADDRESS", help="run on a Ray cluster (auto, local, or host:port)")
    add("--cpus_per_task", type=float, default=1.0, metavar="N", help="CPUs of a run on the cluster (default: 1)")
    add("--gpus_per_task", type=float, default=0.0, metavar="N", help="GPUs of a run on the cluster (default: 0)")
    return parser


def run(words: list[str]) -> int:
    """List the cells, run what is missing, write the page; return 1 if a run failed, else 0.

    Raises:
        KDError: bad input.
    """
    arguments = _parser().parse_args(words)
    paper, choice = read_paper(), _choice(arguments)
    seeds = _seeds(arguments.seeds) or list(paper.seeds)
    paper.cells(choice)  # refuses a wrong name

    if not arguments.plan:
        check_page(arguments.page_file)
    if arguments.page:
        write_page(paper, arguments.results, arguments.page_file)
        print(f"written: {arguments.page_file}")
        return 0
    finished, mode = read_finished(arguments.results), {"exact": arguments.exact, "other_data": arguments.other_data}
    states = progress(paper, finished, choice, seeds, **mode)
    print("\n".join(listing(states)))
    if arguments.plan:
        return 0
    left = [state.cell for state in states if state.missing]
    check_data(left, Path(arguments.data_path), other_data=arguments.other_data)
    failed = _run(states, paper, arguments, _command(words))
    write_page(paper, arguments.results, arguments.page_file)
    print(f"written: {arguments.page_file}")
    return 1 if failed else 0


def _run(states: list[Progress], paper: Paper, arguments: argparse.Namespace, command: str) -> int:
    """Run the missing runs, write the page after each, and return the number of failures."""
    places = {"data_path": arguments.data_path, "output_dir": arguments.output_dir, "cache_dir": cache_folder(None)}
    local = {key: str(user_path(folder, key).resolve()) for key, folder in places.items()}
    grid = grid_of(states, paper)
    resources = {"cpu": arguments.cpus_per_task, "gpu": arguments.gpus_per_task}
    outcomes = run_grid(
        grid, arguments.results, local, command=command, ray_address=arguments.ray_address, resources=resources
    )
    failed = 0
    for count, outcome in enumerate(outcomes, start=1):
        failed += outcome.state == "failed"
        task = outcome.task
        place = f"[{task.grid} {count}/{len(grid.tasks)}] {task.run} seed {task.seed}"
        print(f"{place}: {outcome.state} {outcome.words}".rstrip(), flush=True)
        if outcome.state == "done":
            write_page(paper, arguments.results, arguments.page_file)
    return failed


def listing(states: list[Progress]) -> list[str]:
    """Return a line for each cell: its finished seeds, its missing runs, time and command."""
    lines = []
    for state in states:
        cell = state.cell
        place = f"{cell.table.title.partition(',')[0]} | {cell.data.name} | {cell.pair} | {cell.row}"
        done = f"done: seeds {', '.join(map(str, state.done))}" if state.done else "nothing done"
        if state.match and not state.match.exact:
            done += " (differs from the paper, see the page)"
        if state.missing:
            seeds = ",".join(str(task.seed) for task in state.missing)
            command = f"recbole-kd reproduce paper {cell.option} --seeds={seeds}"
            done += f"; missing: seeds {seeds.replace(',', ', ')}, time: {time_in_words([state])}: {command}"
        lines.append(f"{place}: {done}")
    complete = sum(not state.missing for state in states)
    runs = {(task.grid, task.file_name) for state in states for task in state.missing}
    lines.append(
        f"{complete} of {len(states)} cells are done; {len(runs)} runs are missing, time: {time_in_words(states)}"
    )
    return lines


def write_page(paper: Paper, results: Path, target: Path) -> None:
    """Write the page from the finished results.

    Raises:
        ConfigError: a result is damaged.
        TargetError: the target holds something that is not this page.
    """

    check_page(target)
    text = page(paper, read_finished(results))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(target, text)


def check_page(target: Path) -> None:
    """Refuse a target that holds anything except this page.

    Raises:
        TargetError: it does.
    """

    check_file(target, own=lambda path: holds_text(path, MARK), option="--page_file")


def _choice(arguments: argparse.Namespace) -> Choice:
    tables = [f"table-{number}" for number in _names(arguments.table)]
    tables += [f"figure-{number}" for number in _names(arguments.figure)]
    return Choice(tuple(tables), *map(_names, (arguments.data, arguments.pair, arguments.method)))


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _seeds(text: str | None) -> list[int]:

    try:
        seeds = [int(name) for name in _names(text)]
    except ValueError:
        seeds = [-1]
    if any(seed < 0 for seed in seeds):
        raise invalid("seeds", text, "expected whole numbers from 0, separated by commas", try_value("seeds", "0,1"))
    return seeds


def _command(words: list[str]) -> str:
    return shlex.join(["recbole-kd", "reproduce", WORD, *words])
