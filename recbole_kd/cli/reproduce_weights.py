"""``recbole-kd reproduce auto-weight``: the bench of ``kd_weight=auto``."""

from __future__ import annotations

from pathlib import Path

from recbole_kd.cli.grids import named_grid
from recbole_kd.cli.parser import SentenceParser
from recbole_kd.experiments.grid import Grid
from recbole_kd.experiments.runner import read_results, run_grid
from recbole_kd.experiments.tables import MADE_BY
from recbole_kd.experiments.weight_bench import NAME, section, with_weights, write_data
from recbole_kd.storage.cache import cache_folder
from recbole_kd.storage.files import write_text_whole
from recbole_kd.storage.places import user_path
from recbole_kd.storage.targets import check_file, holds_text

EXAMPLES = [f"recbole-kd reproduce {NAME}", f"recbole-kd reproduce {NAME} --only='EASE to MF'"]


def _parser() -> SentenceParser:
    parser = SentenceParser(
        f"reproduce {NAME}",
        "Run the cells of the bench with kd_weight=auto and with seven weights each, and write their table.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("--only", metavar="WORDS", help="only cells whose name has these words")
    add("--table", action="store_true", help="run nothing, only write the table from existing results")
    add(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of the results (default: results/)"
    )
    add("--data_path", default="dataset/", metavar="DIR", help="folder of the data sets (default: dataset/)")
    add("--output_dir", default="saved", metavar="DIR", help="logs and checkpoints (default: saved/)")
    return parser


def run(words: list[str]) -> int:
    """Run the cells and write the table after each run; return 1 if a run failed, else 0.

    Raises:
        KDError: bad input.
    """
    arguments = _parser().parse_args(words)
    cells = named_grid(NAME)
    target = arguments.results / f"{NAME}.md"
    check_table(target)
    places = {"data_path": arguments.data_path, "output_dir": arguments.output_dir, "cache_dir": cache_folder(None)}
    local = {key: str(user_path(folder, key).resolve()) for key, folder in places.items()}
    failed = 0
    if not arguments.table:
        write_data(Path(local["data_path"]))
        for task in cells.tasks:
            if arguments.only and arguments.only not in task.run:
                continue
            cell = Grid(cells.name, cells.title, [task], metric=cells.metric)
            failed += _run(cell, arguments.results, local, cells, target)
            failed += _run(
                with_weights(cell, read_results(cell, arguments.results)), arguments.results, local, cells, target
            )
    write_table(cells, arguments.results, target)
    return 1 if failed else 0


def _run(part: Grid, results: Path, local: dict[str, str], cells: Grid, target: Path) -> int:
    """Run some runs, write the table after each, and return the number of failures."""
    failed = 0
    for outcome in run_grid(part, results, local, command=f"recbole-kd reproduce {NAME}"):
        failed += outcome.state == "failed"
        print(f"[{outcome.task.run}] {outcome.state} {outcome.words}".rstrip(), flush=True)
        if outcome.state == "done":
            write_table(cells, results, target)
    return failed


def write_table(cells: Grid, results: Path, target: Path) -> None:
    """Write the table from the finished results, if there are any.

    Raises:
        ConfigError: a result is damaged, or was made with other settings.
        TargetError: the target holds something that is not this table.
    """
    of_cells = read_results(cells, results)
    if of_cells:
        check_table(target)
        of_weights = read_results(with_weights(cells, of_cells), results)
        write_text_whole(target, section(cells, {**of_cells, **of_weights}))


def check_table(target: Path) -> None:
    """Refuse a table's path that holds anything except a table of ours (TargetError)."""
    check_file(target, own=lambda path: holds_text(path, f"\n{MADE_BY}`"))
