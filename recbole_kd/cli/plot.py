"""``recbole-kd plot``: draw the results of grids."""

from __future__ import annotations

from pathlib import Path

from recbole_kd.cli.grids import HELP, named_grid
from recbole_kd.cli.parser import SentenceParser
from recbole_kd.errors import ConfigError
from recbole_kd.experiments.plots import draw_grid
from recbole_kd.experiments.runner import read_results


def run(words: list[str]) -> int:
    """Draw each grid that has results; return 0.

    Raises:
        ConfigError: a grid has no results.
    """
    parser = SentenceParser(
        "plot", "Draw the results of grids, RESULTS/GRID.svg each.", ["recbole-kd plot citeulike-mf-mf"]
    )
    parser.add_argument("grids", nargs="+", metavar="GRID", help=f"grids whose results are drawn: {HELP}")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of the results (default: results/)"
    )
    arguments = parser.parse_args(words)
    for word in arguments.grids:
        grid = named_grid(word, allow_code=True)  # nothing is run
        found = read_results(grid, arguments.results)
        if not found:
            raise ConfigError(
                f"{word} has no results in {arguments.results}: run it with `recbole-kd reproduce {word}` first"
            )
        picture = arguments.results / f"{grid.name}.svg"
        draw_grid(grid, found, picture)
        print(f"wrote {picture}")
    return 0
