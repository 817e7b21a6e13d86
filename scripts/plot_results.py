#!/usr/bin/env python
"""Draw grids: `python scripts/plot_results.py properties/reproduce/citeulike-mf-mf.yaml` writes results/citeulike-mf-mf.svg."""

from __future__ import annotations

import sys
from pathlib import Path

# The script also runs from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_kd.cli.script import SentenceParser, exit_code
from recbole_kd.errors import ConfigError
from recbole_kd.experiments.grid import read_grid
from recbole_kd.experiments.plots import draw_grid
from recbole_kd.experiments.runner import read_results


def run(argv: list[str]) -> int:
    """Draw each grid that has results.

    Raises:
        ConfigError: a grid has none.
    """
    parser = SentenceParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("grids", nargs="+", type=Path, metavar="GRID.yaml", help="grids whose results are drawn")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="folder of the results (default: results/)")
    arguments = parser.parse_args(argv)
    for path in arguments.grids:
        grid = read_grid(path)
        found = read_results(grid, arguments.results)
        if not found:
            raise ConfigError(f"{path} has no results in {arguments.results}: run it with scripts/reproduce.py first")
        picture = arguments.results / f"{grid.name}.svg"
        draw_grid(grid, found, picture)
        print(f"wrote {picture}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line: 0 when done, 2 with one sentence when the input is bad."""
    return exit_code(run, argv)


if __name__ == "__main__":
    sys.exit(main())
