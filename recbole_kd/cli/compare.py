"""``recbole-kd compare``: several methods over seeds for one teacher and student, with a table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_kd.cli.compare_search import search_settings
from recbole_kd.cli.verb_values import verb_values
from recbole_kd.config.known_keys import check_verb_keys
from recbole_kd.config.schema import COMPARE_KEYS, RUN_KEYS, check_table
from recbole_kd.config.validation import invalid
from recbole_kd.experiments.comparison import (
    Comparison,
    make_comparison,
    methods_of,
    methods_of_grid,
    seeds_of,
)
from recbole_kd.experiments.comparison_figures import COLUMNS, as_csv, figures_of
from recbole_kd.experiments.comparison_table import comparison_text, metrics_of
from recbole_kd.experiments.grid import Grid
from recbole_kd.experiments.runner import read_results, run_grid
from recbole_kd.experiments.settings_search import CHOSEN, SEARCH
from recbole_kd.report.write import REPORT, SHOWN, try_report
from recbole_kd.storage.cache import cache_folder
from recbole_kd.storage.files import write_json, write_text_whole
from recbole_kd.storage.places import user_path
from recbole_kd.storage.targets import check_file, check_folder, holds_text
from recbole_kd.tuning.study import absolute

HELP = """\
Compare distillation methods for one teacher and one student over several seeds: a table with tests, csv and JSON.

examples:
  recbole-kd compare --model=MF --teacher=LightGCN --kd=RCEKD,RRD,DCD,CE --seed=0,1,2 --dataset=ml-100k
  recbole-kd compare --grid=mine.yaml --budget=8 --ray_address=auto

  --kd=A,B,C                     the methods; each other one is tested against the first
  --seed=0,1,2                   seeds of the student; the teacher is trained once, the student alone once per seed
  --grid=FILE                    YAML with config, seeds and runs (name: settings), instead of --kd; keys on the
                                 command line override its config
  --budget=8                     first try as many settings of each method, drawn from properties/tune, with the first
                                 seed; the best on validation is used for all seeds; keys given here are not searched
  --ray_address=ADDRESS          run on a Ray cluster (auto, local, or HOST:PORT)
  --cpus_per_task=1              CPUs of a run on the cluster, fractions allowed; also --gpus_per_task=0
  --output_dir=saved             gets a folder compare-MODEL-TEACHER-DATASET-...; the same command continues it
  --allow_code                   let the grid name methods as module:Class and import them
  --KEY=VALUE --config_files=    as in recbole-kd run, for all runs: --metrics, --topk, --valid_metric, ...
"""

DEFAULTS: dict[str, Any] = {"grid": None, "budget": None, "ray_address": None, "cpus_per_task": 1, "gpus_per_task": 0}
"""Keys of the comparison itself."""

TABLE, CSV = "table.txt", "table.csv"
OWN = ("results", SEARCH, CHOSEN, TABLE, CSV, SHOWN, REPORT, "runs", "output.log")
"""What the folder of a comparison holds."""


def run(words: list[str]) -> int:
    """Run the comparison and print its table: 0 when all of it was done, 1 when a part failed.

    Raises:
        KDError: bad input.
    """
    found = verb_values(words, HELP)
    if found is None:
        return 0
    given, allow_code = found
    check_verb_keys(given, DEFAULTS, RUN_KEYS)
    check_table(given, COMPARE_KEYS, {**DEFAULTS, "grid": "mine.yaml", "budget": 8, "ray_address": "auto"})
    options = {key: given.pop(key, default) for key, default in DEFAULTS.items()}
    comparison = read_comparison(given, options["grid"], allow_code=allow_code)
    folder = Path(comparison.local["output_dir"]).parent
    return _run(comparison, folder, options, shlex.join(["recbole-kd", "compare", *words]))


def read_comparison(given: Mapping[str, Any], grid: str | None, *, allow_code: bool) -> Comparison:
    """Return the comparison that was asked for, checked on its data.

    Its runs are below a folder of its own.

    Raises:
        KDError: bad input.
    """
    seeds = seeds_of(given.get("seed"))
    rest = {key: value for key, value in given.items() if key != "seed"}
    if grid is None:
        methods, common = methods_of(rest, seeds or [2020]), rest
    elif "kd" in rest:
        raise invalid("kd", rest["kd"], f"it has no effect beside --grid={grid}, whose runs are compared")
    else:
        methods, common = methods_of_grid(user_path(grid, "grid"), rest, seeds, allow_code=allow_code)
    local = absolute({**common, "output_dir": common.get("output_dir") or "saved"})
    places = {key: local[key] for key in ("data_path", "output_dir", "teacher_path") if local.get(key)}
    places["cache_dir"] = str(cache_folder(common.get("cache_dir")).resolve())
    comparison = make_comparison(methods, common, places)
    folder = Path(places["output_dir"]) / comparison.folder_name
    return comparison.with_local(output_dir=str(folder / "runs"))


def _run(comparison: Comparison, folder: Path, options: Mapping[str, Any], command: str) -> int:
    check_folder(folder, own=lambda path: path.name in OWN)
    check_file(folder / CSV, own=lambda path: holds_text(path, ",".join(COLUMNS)))
    print(f"{comparison.folder_name}: results in {folder}", flush=True)
    runner = Runner(comparison, folder, options, command)
    record = None
    if options["budget"]:
        record = search_settings(comparison, folder, options["budget"], runner.run)
        comparison = comparison.searched()
    chosen = {row: found["chosen"] for row, found in record["rows"].items()} if record else None
    grid = comparison.grid(chosen)
    failed = runner.run(grid)
    results = read_results(grid, folder)
    if not results:
        print("No run was done: the lines above say why.")
        return 1
    methods = [method.name for method in comparison.methods]
    metrics = metrics_of(comparison, results)
    text = comparison_text(comparison, grid, results, record)
    write_text_whole(folder / CSV, as_csv([f for metric in metrics for f in figures_of(methods, metric, results)]))
    write_text_whole(folder / TABLE, text + "\n")
    shown = [task.file_name for task in grid.tasks if (task.run, task.seed) in results]
    write_json(folder / SHOWN, {"results": shown})
    failure = try_report(folder)
    made = {"table": TABLE, "csv": CSV, "results": "results", **({} if failure else {"report": REPORT})}
    print(f"\n{text}\n\n{'   '.join(f'{word}: {folder / name}' for word, name in made.items())}")
    if failure is not None:
        print(f"warning: {failure}", file=sys.stderr)
    return 1 if failed else 0


class Runner:
    """Runs the grids of one comparison and says how far they are.

    Args:
        options: of the comparison, :data:`DEFAULTS`. command: stands in each result.
    """

    def __init__(self, comparison: Comparison, folder: Path, options: Mapping[str, Any], command: str) -> None:
        self._local, self._metric = comparison.local, comparison.metric
        self._folder, self._command = folder, command
        self._address = options["ray_address"]
        self._resources = {"cpu": options["cpus_per_task"], "gpu": options["gpus_per_task"]}

    def run(self, grid: Grid) -> int:
        """Run what is not done, print a line for each task, and return how many failed."""
        log = None if self._address else self._folder / "output.log"
        outcomes = run_grid(
            grid, self._folder, self._local, command=self._command, ray_address=self._address,
            resources=self._resources, log=log,
        )  # fmt: skip
        failed, n = 0, len(grid.tasks)
        for count, outcome in enumerate(outcomes, start=1):
            failed += outcome.state == "failed"
            state = {"skipped": "done before"}.get(outcome.state, outcome.state)
            line = f"[{count}/{n}] {outcome.task.run}, seed {outcome.task.seed}: {state} {outcome.words}"
            print(line.rstrip(), flush=True)
        return failed
