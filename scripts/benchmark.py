"""Seconds per epoch and peak memory of distillation beside RecBole's own training, on data made to a public data set's counts.

python scripts/benchmark.py --model=MF --kd=RCEKD --size=citeulike --output=bench.json

Plain is RecBole's unmodified Trainer, BPR and dataloader at the same width. Both are timed in one process, epoch by epoch in turn; a KD
epoch runs from begin_epoch to the last step, evaluation excluded. Peak memory is that of two further processes, one evaluation included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SIZES: dict[str, tuple[int, int, tuple[int, int, int]]] = {
    "small": (1000, 4000, (16000, 1000, 1000)),
    "ml-100k": (943, 1682, (80000, 10000, 10000)),
    "citeulike": (5219, 25181, (98405, 12451, 14724)),
    "gowalla": (29858, 40981, (720561, 89567, 217242)),
}
"""users, items, (train, validation, test) interactions."""

ALONE = "alone"
"""In place of a method: our trainer without a distiller."""


def make_pairs(n_users: int, n_items: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct user-item pairs ``[count, 2]``: every user and item at least once, activity and popularity with long tails."""
    activity = rng.lognormal(sigma=1.0, size=n_users)
    popularity = 1.0 / (np.arange(n_items) + 20.0) ** 0.8
    every_item = np.stack([rng.integers(0, n_users, n_items), np.arange(n_items)], axis=1)
    every_user = np.stack([np.arange(n_users), rng.integers(0, n_items, n_users)], axis=1)
    pairs = np.unique(np.concatenate([every_item, every_user]), axis=0)
    while len(pairs) < count:
        users = rng.choice(n_users, size=count, p=activity / activity.sum())
        items = rng.choice(n_items, size=count, p=popularity / popularity.sum())
        more = np.unique(np.concatenate([pairs, np.stack([users, items], axis=1)]), axis=0)
        keep = rng.permutation(len(more) - len(pairs))[: count - len(pairs)]
        fresh = np.setdiff1d(more[:, 0] * n_items + more[:, 1], pairs[:, 0] * n_items + pairs[:, 1])[keep]
        pairs = np.concatenate([pairs, np.stack([fresh // n_items, fresh % n_items], axis=1)])
    return rng.permutation(pairs)


def write_dataset(size: str, folder: Path) -> str:
    """Atomic files of a made data set, pre-split, and in one file under NAME-whole; returns its name."""
    n_users, n_items, counts = SIZES[size]
    name = f"made-{size}"
    (folder / name).mkdir(parents=True, exist_ok=True)
    pairs = make_pairs(n_users, n_items, sum(counts), np.random.default_rng(0))
    for part, rows in zip(("train", "valid", "test"), np.split(pairs, np.cumsum(counts)[:-1]), strict=True):
        lines = "\n".join(f"{user}\t{item}" for user, item in rows.tolist())
        (folder / name / f"{name}.{part}.inter").write_text(f"user_id:token\titem_id:token\n{lines}\n")
    lines = "\n".join(f"{user}\t{item}" for user, item in pairs.tolist())
    (folder / f"{name}-whole").mkdir(exist_ok=True)
    (folder / f"{name}-whole" / f"{name}-whole.inter").write_text(f"user_id:token\titem_id:token\n{lines}\n")
    return name


def build(model: str, kd: str | None, size: str, folder: Path, options: dict[str, Any]) -> tuple[Any, Any]:
    """A trainer and its loaders: RecBole's own for the plain run, ours with a random d=400 teacher for the KD run."""
    from recbole.utils import get_model, get_trainer, init_seed

    from recbole_kd import KDTrainer, build_distiller
    from recbole_kd.config import make_config
    from recbole_kd.data.preparation import evaluation_batch_size, make_loaders, split_data
    from recbole_kd.model.graph import accelerate
    from recbole_kd.property_layers import student_layers

    name = f"made-{size}"
    made = {"data_path": str(folder), "benchmark_filename": ["train", "valid", "test"], "load_col": {"inter": ["user_id", "item_id"]}}
    given = {
        **made,
        **({} if kd and kd != ALONE else options),
        "embedding_size": 20,
        "train_batch_size": 2048,
        "show_progress": False,
        "seed": 0,
        "normalize_all": False,
    }
    method = {"kd": kd, **known_options(kd, options)} if kd and kd != ALONE else {}
    config = make_config(model, name, student_layers(model, name)[0], {**given, **method})
    init_seed(0, True)
    splits = split_data(config)
    network = get_model(model)(config, splits.parts[0]).to(config["device"])
    if "eval_batch_size" not in options:
        config["eval_batch_size"] = evaluation_batch_size(network, splits.n_users, splits.n_items + 1, config["eval_memory_mb"])
    loaders = make_loaders(config, splits)
    if kd is None:
        return get_trainer(config["MODEL_TYPE"], model)(config, network), loaders
    accelerate(network)
    distiller = build_distiller(config, network, random_teacher(splits.n_users + 1, splits.n_items + 1)) if kd != ALONE else None
    trainer = KDTrainer(config, network, distiller)
    trainer.prepare(loaders.train)
    return trainer, loaders


def random_teacher(n_users: int, n_items: int) -> Any:
    """A factor teacher of width 400 with a trajectory of three checkpoints."""
    import torch

    from recbole_kd.teacher.factors import FactorScores

    generator = torch.Generator().manual_seed(1)
    last = [torch.randn(n, 400, generator=generator) * 0.1 for n in (n_users, n_items)]
    teacher = FactorScores(last[0], last[1])
    teacher.earlier = lambda: [FactorScores(last[0] * share, last[1].roll(1, 1) * (1 - share) + last[1]) for share in (0.3, 0.6)]
    return teacher


def known_options(kd: str, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the given options that this method knows: one command may time several methods."""
    from recbole_kd.build import known_kd_keys

    known = known_kd_keys(kd)
    return {key: value for key, value in options.items() if not key.startswith("kd_") or key in known}


def time_epochs(model: str, kd: str, size: str, folder: Path, repeats: int, options: dict[str, Any]) -> dict[str, Any]:
    """Plain and KD epochs in turn after one warm-up each, medians."""
    plain, plain_loaders = build("BPR" if model == "MF" else model, None, size, folder, {})
    distilled, loaders = build(model, kd, size, folder, dict(options))
    times: dict[str, list[float]] = {"plain": [], "kd": []}
    phases: list[dict[str, float]] = []
    for epoch in range(repeats + 1):
        for name, trainer, data in (("plain", plain, plain_loaders), ("kd", distilled, loaders)):
            started = perf_counter()
            trainer._train_epoch(data.train, epoch)
            times[name].append(perf_counter() - started)
        phases.append(dict(distilled.phase_seconds))
    plain_seconds, seconds = (median(times[name][1:]) for name in ("plain", "kd"))
    return {
        "model": model,
        "kd": kd,
        "size": size,
        "seconds_per_epoch": seconds,
        "plain_seconds_per_epoch": plain_seconds,
        "ratio_to_plain": seconds / plain_seconds,
        "phases": {name: median(p[name] for p in phases[1:]) for name in phases[-1]},
    }


def memory_of(model: str, kd: str | None, size: str, folder: Path, options: dict[str, Any]) -> float:
    """Peak resident MiB of two epochs and one evaluation, in this process."""
    from recbole_kd.report import peak_rss_mb

    trainer, loaders = build(model, kd, size, folder, dict(options))
    for epoch in range(2):
        trainer._train_epoch(loaders.train, epoch)
    trainer.eval_collector.data_collect(loaders.train)
    trainer.evaluate(loaders.valid, load_best_model=False)
    return peak_rss_mb()


def time_evaluation(size: str, folder: Path) -> dict[str, float]:
    """Seconds of a full-ranking evaluation of BPR, median of five after one: ours, and RecBole's with its default batch size of 4096."""
    seconds = {}
    for name, kd, given in (("evaluation_seconds", ALONE, {}), ("recbole_evaluation_seconds", None, {"eval_batch_size": 4096})):
        trainer, loaders = build("BPR", kd, size, folder, given)
        trainer.eval_collector.data_collect(loaders.train)
        times = []
        for _ in range(6):
            started = perf_counter()
            trainer.evaluate(loaders.test, load_best_model=False)
            times.append(perf_counter() - started)
        seconds[name] = median(times[1:])
    return seconds


def in_own_process(job: dict[str, Any]) -> Any:
    """Run one job of this script in a fresh process and read its JSON answer."""
    command = [sys.executable, str(Path(__file__).resolve()), "--job", json.dumps(job)]
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_job(job: dict[str, Any]) -> None:
    common = (job["size"], Path(job["folder"]))
    if job["what"] == "sequences":
        from benchmark_sequences import time_sequences

        names = (f"made-{job['size']}", "made-small")
        print(json.dumps(time_sequences(*names, Path(job["folder"]), job["repeats"])))
    elif job["what"] == "evaluation":
        print(json.dumps(time_evaluation(*common)))
    elif job["what"] == "time":
        print(json.dumps(time_epochs(job["model"], job["kd"], *common, job["repeats"], job["options"])))
    else:
        print(json.dumps(memory_of(job["model"], job["kd"], *common, job["options"])))


def parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="MF", help="student, or several with commas")
    parser.add_argument("--kd", default="RCEKD", help="method, several with commas, or all")
    parser.add_argument("--size", default="citeulike", help=f"of {', '.join(SIZES)}, or several with commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--evaluation", action="store_true", help="also time full-ranking evaluation beside RecBole's default batch size")
    parser.add_argument("--sequences", action="store_true", help="time HSTU and SASRec, plain and distilled, instead of --model and --kd")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    known, rest = parser.parse_known_args(argv)
    from recbole_kd.arguments import parse_arguments

    return known, parse_arguments(rest)


def methods(words: str) -> list[str]:
    """The named methods."""
    from recbole_kd.distiller.table import DISTILLERS

    return list(DISTILLERS) if words == "all" else words.split(",")


def report_sequences(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_dataset("small", Path(folder))
        for size in arguments.size.split(","):
            write_dataset(size, Path(folder))
            found = in_own_process({"what": "sequences", "size": size, "folder": folder, "repeats": arguments.repeats})
            print("\n".join(f"{size:<10} {name:<28} {value:10.2f}" for name, value in found.items()))
            if arguments.output:
                arguments.output.write_text(json.dumps({"size": size, "cores": os.cpu_count(), **found}, indent=2))


def main() -> None:
    arguments, options = parse(sys.argv[1:])
    if arguments.job:
        run_job(json.loads(arguments.job))
        return
    if arguments.sequences:
        report_sequences(arguments)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.size.split(","):
            write_dataset(size, Path(folder))
            for model in arguments.model.split(","):
                for kd in methods(arguments.kd):
                    job = {"model": model, "kd": kd, "size": size, "folder": folder, "repeats": arguments.repeats, "options": options}
                    row = in_own_process({**job, "what": "time"})
                    row["peak_rss_mb"] = in_own_process({**job, "what": "memory"})
                    plain = "BPR" if model == "MF" else model
                    row["plain_peak_rss_mb"] = in_own_process({**job, "what": "memory", "model": plain, "kd": None, "options": {}})
                    if arguments.evaluation:
                        row.update(in_own_process({**job, "what": "evaluation"}))
                    row["cores"] = os.cpu_count()
                    rows.append(row)
    from tabulate import tabulate

    shown = [{k: v for k, v in row.items() if k != "phases"} | row["phases"] for row in rows]
    print(tabulate(shown, headers="keys", floatfmt=".2f"))
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
