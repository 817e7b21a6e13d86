"""``recbole-kd tune``: search the keys of a run on the validation metric."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_kd.cli.program import run_verb
from recbole_kd.cli.verb_values import verb_values
from recbole_kd.config.known_keys import check_verb_keys
from recbole_kd.config.property_layers import properties_dir
from recbole_kd.config.schema import RUN_KEYS, SEARCH_KEYS, check_table
from recbole_kd.errors import ConfigError
from recbole_kd.report.write import try_report
from recbole_kd.storage.places import user_path
from recbole_kd.tuning.hyperopt import tune_with_hyperopt
from recbole_kd.tuning.ray_tune import tune_with_ray
from recbole_kd.tuning.space import Space, check_space, read_space
from recbole_kd.tuning.study import BEST, Study

HELP = """\
Search the keys of a distillation, on the validation metric.

examples:
  recbole-kd tune --tool=Hyperopt --algo=random --model=MF --teacher=LightGCN --kd=RCEKD --dataset=ml-100k
  recbole-kd tune --tool=Ray --params_file=space.yaml --model=MF --teacher=LightGCN --kd=RCEKD --dataset=ml-100k

  --params_file=FILE             search space, YAML or RecBole's .hyper; else properties/tune/<kd>.yaml, or any.yaml
  --max_evals=20                 trials (with a grid: per combination); exhaustive tries every combination once
  --study=NAME                   folder in output_dir (default: tune-<model>-<teacher>-<kd>-<dataset>)
  --search_seed=0                seed of the draws
  --resume=True                  continue an interrupted study: finished trials are not repeated
  --allow_code                   let files name methods as module:Class, and import and run that code
  --KEY=VALUE --config_files=    keys of recbole-kd run for all trials

  with --tool=Hyperopt, RecBole's HyperTuning
  --algo=exhaustive              exhaustive, random or bayes
  --early_stop=10                trials without progress after which random and bayes end
  --output_file=FILE             the trials as RecBole's run_hyper.py writes them; --display_file=FILE.html plots them

  with --tool=Ray
  --searcher=random              random, hyperopt or optuna
  --scheduler=ASHA               ASHA (--grace_period=10 epochs, --reduction_factor=3) or FIFO
  --cpus_per_trial=1 --gpus_per_trial=0 --max_concurrent=0       fractions are allowed; 0: as many as fit
  --ray_address=local            local, auto or HOST:PORT of a cluster
  --max_failures=3               retries of a trial whose node was lost
"""

DEFAULTS: dict[str, Any] = {
    "tool": "Hyperopt", "params_file": None, "max_evals": 20, "study": None, "search_seed": 0, "algo": "exhaustive",
    "early_stop": None, "output_file": None, "display_file": None, "searcher": "random", "scheduler": "ASHA",
    "grace_period": 10, "reduction_factor": 3, "cpus_per_trial": 1, "gpus_per_trial": 0, "max_concurrent": 0,
    "ray_address": "local", "max_failures": 3,
}  # fmt: skip
"""Keys of the search itself."""

OF_A_TOOL = {
    "Hyperopt": ("algo", "early_stop", "output_file", "display_file"),
    "Ray": (
        "searcher", "scheduler", "grace_period", "reduction_factor", "cpus_per_trial", "gpus_per_trial",
        "max_concurrent", "ray_address", "max_failures",
    ),
}  # fmt: skip
"""Keys that only one tool reads."""


def search_options(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keys of the search, with defaults, and those of the runs.

    Raises:
        ConfigError: a value of the search is invalid.
    """
    check_verb_keys(values, DEFAULTS, RUN_KEYS)
    check_table(values, SEARCH_KEYS, DEFAULTS)
    options = {key: values.get(key, default) for key, default in DEFAULTS.items()}
    _refuse_without_effect(values, options)
    base = {key: value for key, value in values.items() if key not in DEFAULTS}
    options["resume"] = base.pop("resume", False)
    return options, base


def _refuse_without_effect(values: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    tool = options["tool"]
    for other, keys in OF_A_TOOL.items():
        named = next((key for key in keys if values.get(key) is not None), None)
        if other != tool and named is not None:
            raise ConfigError(
                f"{named}={values[named]} has no effect with tool={tool}: leave it out, or take --tool={other}"
            )
    if tool == "Hyperopt" and options["algo"] == "exhaustive" and values.get("max_evals") is not None:
        raise ConfigError(
            f"max_evals={values['max_evals']} has no effect with algo=exhaustive, which tries every combination: leave "
            "it out, or take --algo=random"
        )


def find_space(options: Mapping[str, Any], base: Mapping[str, Any], *, allow_code: bool = False) -> Space:
    """Return the named search space, or the method's own, after checking it."""
    own = properties_dir() / "tune" / f"{base.get('kd')}.yaml"
    space = read_space(
        options["params_file"] or (own if own.is_file() else own.with_name("any.yaml")), allow_code=allow_code
    )
    check_space(space, base)
    return space


def run_search(values: Mapping[str, Any], *, allow_code: bool = False) -> Study:
    """Run a whole search; see HELP for the keys.

    Args:
        values: the keys.
        allow_code: whether the search space may name methods as ``module:Class``.

    Raises:
        KDError: bad input. The message is one sentence.
    """
    options, base = search_options(values)
    space = find_space(options, base, allow_code=allow_code)
    named = "-".join(str(base.get(key) or "saved").replace(",", "+") for key in ("model", "teacher", "kd", "dataset"))
    output = user_path(str(base.get("output_dir") or "saved"), "output_dir")
    study = Study(base, Path(os.path.abspath(output / (options["study"] or f"tune-{named.replace(':', '.')}"))))
    if options["tool"] == "Ray":
        tune_with_ray(study, space, options)
    else:
        tuning = tune_with_hyperopt(study, space, options)
        if options["output_file"]:
            tuning.export_result(output_file=options["output_file"])
    study.write()
    failure = try_report(study.folder)
    if failure is not None:
        print(f"warning: {failure}", file=sys.stderr)
    return study


def run(words: list[str]) -> int:
    """Search, and print the table of trials and the file of the best one.

    Returns:
        0 if at least one trial was finished, else 1.

    Raises:
        KDError: bad input.
    """
    found = verb_values(words, HELP)
    if found is None:
        return 0
    given, allow_code = found
    study = run_search(given, allow_code=allow_code)
    print(study.table())
    if study.best is None:
        print(f"error: none of {len(study.trials)} trials was done; the table gives the reasons", file=sys.stderr)
        return 1
    best = study.folder / BEST
    named = ":" in str(study.best.settings.get("kd", study.base.get("kd")))
    print(
        f"Best configuration: {best} (recbole-kd run --config_files={best}{' --allow_code' if named else ''} repeats "
        "it)"
    )
    return 0


def main(argv: Sequence[str]) -> int:
    """Run the verb and return its exit code (:func:`recbole_kd.cli.boundary.answer`)."""
    return run_verb("tune", argv)
