"""``recbole-kd reproduce``: run grids of experiments and make their tables."""

from __future__ import annotations

import sys
from pathlib import Path

from recbole_kd.cli.grids import HELP, named_grid
from recbole_kd.cli.parser import SentenceParser
from recbole_kd.cli.reproduce_paper import WORD
from recbole_kd.cli.reproduce_paper import run as run_paper
from recbole_kd.cli.reproduce_weights import run as run_weights
from recbole_kd.cli.reproduce_weights import write_table as write_weights
from recbole_kd.experiments.epoch_curves import dynamics_section
from recbole_kd.experiments.grid import Grid
from recbole_kd.experiments.runner import read_results, run_grid
from recbole_kd.experiments.tables import MADE_BY, grid_section
from recbole_kd.experiments.weight_bench import NAME as WEIGHTS
from recbole_kd.report.write import try_report
from recbole_kd.storage.cache import cache_folder
from recbole_kd.storage.files import write_text_whole
from recbole_kd.storage.places import user_path
from recbole_kd.storage.targets import check_file, holds_text

EXAMPLES = ["recbole-kd reproduce citeulike-mf-mf", "recbole-kd reproduce mine.yaml --results=results --table"]


def _parser() -> SentenceParser:
    parser = SentenceParser(
        "reproduce",
        "Run grids of experiments and make their tables; finished runs are skipped.",
        EXAMPLES,
        "\nThe tables and figures of the paper: recbole-kd reproduce paper --help"
        "\nThe bench of kd_weight=auto: recbole-kd reproduce auto-weight --help",
    )
    add = parser.add_argument
    add("grids", nargs="+", metavar="GRID", help=f"grids to run, in this order: {HELP}")
    add(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="one JSON file per run, and tables.md (default: results/)",
    )
    add("--data_path", default="dataset/", metavar="DIR", help="folder of the prepared data sets (default: dataset/)")
    add(
        "--output_dir",
        default="saved",
        metavar="DIR",
        help="logs and checkpoints (default: saved/); teachers go to the cache",
    )
    add(
        "--ray_address",
        metavar="ADDRESS",
        help="run on a Ray cluster (auto, local, or host:port); default: one process at a time",
    )
    add(
        "--cpus_per_task",
        type=float,
        default=1.0,
        metavar="N",
        help="CPUs of a run on the cluster; fractions are allowed (default: 1)",
    )
    add("--gpus_per_task", type=float, default=0.0, metavar="N", help="GPUs of a run on the cluster (default: 0)")
    add("--table", action="store_true", help="run nothing, only make the tables from existing results")
    add(
        "--allow_code",
        action="store_true",
        help="let grids name methods as module:Class, whose code is then imported and run",
    )
    return parser


def run(words: list[str]) -> int:
    """Run the grids and write the tables, or the paper's; return 1 if a run failed, else 0.

    Raises:
        KDError: bad input.
    """
    if WORD in words:
        return run_paper([word for word in words if word != WORD])
    if WEIGHTS in words:
        return run_weights([word for word in words if word != WEIGHTS])
    arguments = _parser().parse_args(words)
    grids = [named_grid(word, allow_code=arguments.allow_code or arguments.table) for word in arguments.grids]
    places = {"data_path": arguments.data_path, "output_dir": arguments.output_dir, "cache_dir": cache_folder(None)}
    # Absolute, because workers have their own working folder.
    local = {key: str(user_path(folder, key).resolve()) for key, folder in places.items()}
    for grid in grids:
        check_table(arguments.results, grid)  # before anything is run
    failed = 0
    for word, grid in zip(arguments.grids, grids, strict=True):
        if arguments.table:
            continue
        resources = {"cpu": arguments.cpus_per_task, "gpu": arguments.gpus_per_task}
        command = f"recbole-kd reproduce {Path(word).name}"
        outcomes = run_grid(
            grid, arguments.results, local, command=command, ray_address=arguments.ray_address, resources=resources
        )
        for count, outcome in enumerate(outcomes, start=1):
            failed += outcome.state == "failed"
            place = f"[{grid.name} {count}/{len(grid.tasks)}] {outcome.task.run} seed {outcome.task.seed}"
            print(f"{place}: {outcome.state} {outcome.words}".rstrip(), flush=True)
            write_tables(grids, arguments.results)
    write_tables(grids, arguments.results)
    write_reports(grids, arguments.results)
    return 1 if failed else 0


def write_tables(grids: list[Grid], results: Path) -> None:
    """Write one Markdown file for each grid, from the JSON files only.

    Raises:
        TargetError: a file exists that is not such a table.
    """
    for grid in grids:
        if grid.name == WEIGHTS:
            write_weights(grid, results, results / f"{grid.name}.md")
            continue
        found = read_results(grid, results)
        if found:
            sections = [grid_section(grid, found), dynamics_section(grid, found)]
            check_table(results, grid)
            write_text_whole(results / f"{grid.name}.md", "\n".join(filter(None, sections)))


def write_reports(grids: list[Grid], results: Path) -> None:
    """Write report.html into the folder of each grid that has results of its own, or say why not."""
    for grid in grids:
        if any((results / grid.name / task.file_name).is_file() for task in grid.tasks):
            failure = try_report(results / grid.name)
            if failure is not None:
                print(f"warning: {failure}", file=sys.stderr)


def check_table(results: Path, grid: Grid) -> None:
    """Refuse a table's path that holds anything except a table of ours.

    Raises:
        TargetError: it does.
    """
    check_file(results / f"{grid.name}.md", own=lambda path: holds_text(path, f"\n{MADE_BY}`"))
