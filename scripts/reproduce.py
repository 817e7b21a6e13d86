#!/usr/bin/env python
"""Run grids of experiments and make their tables: `python scripts/reproduce.py properties/reproduce/citeulike-mf-mf.yaml`."""

from __future__ import annotations

import sys
from pathlib import Path

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_kd.cli.script import SentenceParser, exit_code
from recbole_kd.experiments.epoch_curves import dynamics_section
from recbole_kd.experiments.grid import Grid, read_grid
from recbole_kd.experiments.runner import read_results, run_grid
from recbole_kd.experiments.tables import MADE_BY, grid_section
from recbole_kd.storage.cache import cache_folder
from recbole_kd.storage.files import write_text_whole
from recbole_kd.storage.targets import check_file, holds_text


def _parser() -> SentenceParser:
    parser = SentenceParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("grids", nargs="+", type=Path, metavar="GRID.yaml", help="grids to run, in this order")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="one JSON file a run, and tables.md (default: results/)")
    add("--data_path", default="dataset/", metavar="DIR", help="folder of the prepared data sets (default: dataset/)")
    add("--output_dir", default="saved", metavar="DIR", help="logs and checkpoints (default: saved/); teachers go to the cache")
    add("--ray_address", metavar="ADDRESS", help="run on a Ray cluster (auto, local, or host:port); default: one process at a time")
    add("--cpus_per_task", type=float, default=1.0, metavar="N", help="of a run on the cluster; fractions are allowed (default: 1)")
    add("--gpus_per_task", type=float, default=0.0, metavar="N", help="the same (default: 0)")
    add("--table", action="store_true", help="run nothing, only make the tables from the results that are there")
    return parser


def run(argv: list[str]) -> int:
    """Run the grids, write the tables; 1 where a run failed."""
    arguments = _parser().parse_args(argv)
    grids = [read_grid(path) for path in arguments.grids]
    places = {"data_path": arguments.data_path, "output_dir": arguments.output_dir, "cache_dir": cache_folder(None)}
    local = {key: str(Path(place).expanduser().resolve()) for key, place in places.items()}  # workers have a folder of their own
    for grid in grids:
        check_table(arguments.results, grid)  # before anything is run
    failed = 0
    for path, grid in zip(arguments.grids, grids, strict=True):
        if arguments.table:
            continue
        command = f"python scripts/reproduce.py properties/reproduce/{path.name}"
        resources = {"cpu": arguments.cpus_per_task, "gpu": arguments.gpus_per_task}
        outcomes = run_grid(grid, arguments.results, local, command=command, ray_address=arguments.ray_address, resources=resources)
        for count, outcome in enumerate(outcomes, start=1):
            failed += outcome.state == "failed"
            place = f"[{grid.name} {count}/{len(grid.tasks)}] {outcome.task.run} seed {outcome.task.seed}"
            print(f"{place}: {outcome.state} {outcome.words}".rstrip(), flush=True)
            write_tables(grids, arguments.results)
    write_tables(grids, arguments.results)
    return 1 if failed else 0


def write_tables(grids: list[Grid], results: Path) -> None:
    """Write one Markdown file for each grid, from the JSON files alone.

    Raises:
        TargetError: a file that is not such a table is there.
    """
    for grid in grids:
        found = read_results(grid, results)
        if found:
            sections = [grid_section(grid, found), dynamics_section(grid, found)]
            check_table(results, grid)
            write_text_whole(results / f"{grid.name}.md", "\n".join(filter(None, sections)))


def check_table(results: Path, grid: Grid) -> None:
    """Refuse a table's path that holds anything but a table of ours (TargetError)."""
    check_file(results / f"{grid.name}.md", own=lambda path: holds_text(path, f"\n{MADE_BY}`"))


def main(argv: list[str] | None = None) -> int:
    """The command line: 0 when done, 1 when a run failed, 2 with one sentence when the input is bad."""
    return exit_code(run, argv)


if __name__ == "__main__":
    sys.exit(main())
