"""Folders of runs, searches, grids and comparisons that nobody ran, for their reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRIALS = [
    (1.0, "a", "done", 0.10), (10.0, "a", "done", 0.13), (300.0, "b", "stopped", 0.09), (30.0, "b", "done", 0.12),
    (3.0, "b", "failed", None),
]  # fmt: skip
COLUMNS = "row,kind,metric,n,mean,sd,gain_over_alone,share_of_teacher,p,p_holm,seconds_per_epoch"


def metrics(value: float) -> dict[str, Any]:
    figures = {"ndcg@10": value, "recall@10": value * 1.1}
    sizes = {"parameters": 1000, "bytes": 4000, "inference_us_per_user": 3.0}
    return {"valid": figures, "test": figures, **sizes, "epochs": 3, "best_epoch": 1, "stopped_by": "epochs"}


def history() -> dict[str, list[float | None]]:
    of_rcekd = {f"{name}_{part}": [0.1, 0.5, 0.6] for name in ("overlap", "gamma") for part in ("q25", "q50", "q75")}
    return {
        "base_loss": [900.0, 30.0, 20.0], "kd_loss": [90.0, 60.0, 50.0], "weighted_kd_loss": [450.0, 300.0, 250.0],
        "grad_ratio": [30.0, 2.0, 0.5], **of_rcekd, "list_overlap": [0.1, 0.6, 0.7],
        "closed_ndcg": [0.5, 0.7, 0.8], "closed_bound": [0.1, 0.2, 0.3], "closed_gap": [0.4, 0.5, 0.5],
        "teacher_list_ndcg": [0.2, 0.4, 0.6], "teacher_list_closed": [0.0, 0.0, 0.1],
        "overlap_rate": [0.5, 0.7, 0.8], "closure_share": [0.0, 0.0, 0.1], "own_figure": [float("nan"), 1.0, 2.0],
        "valid_ndcg@10": [None, 0.13, 0.12],
    }  # fmt: skip


def made_result(name: str = "RCEKD", **changes: Any) -> dict[str, Any]:
    """The content of a result.json; ``name`` stands wherever a name from outside may stand."""
    distilled = {
        **metrics(0.13), "seconds_per_epoch": 0.5, "history": history(),
        "teacher_ranks": {"start": [500.0, 510.0], "end": [2.0, 3.5]},
    }  # fmt: skip
    return {
        "dataset": name, "setting": "general", "model": name, "teacher_model": name, "kd": name, "seed": 1,
        "eval_protocol": "recbole", "valid_metric": "NDCG@10", "valid_metric_bigger": True,
        "teacher": metrics(0.14), "student": metrics(0.10), "distilled": distilled,
        "versions": {"commit": name}, "command": name,
        "verdict": {"code": "helped", "metric": "NDCG@10", "gain": 0.3, "text": f"{name}: +30 %",
                    "warnings": [{"code": "x", "text": name}]},
        "setting_sources": {"student": {name: [name, name]}, f"teacher {name}": {"epochs": [3, "command"]}},
        **changes,
    }  # fmt: skip


def write_run(folder: Path, name: str = "RCEKD", **changes: Any) -> Path:
    return _written(folder / "result.json", made_result(name, **changes))


def write_search(folder: Path, name: str = "RCEKD") -> Path:
    trials = [
        {
            "settings": {"kd_weight": weight, name: f"{name} {kind}"}, "state": state, "score": score, "bigger": True,
            "epochs": 3, "metric": "ndcg@10", "test": {} if score is None else {"ndcg@10": score},
            "reason": name if state == "failed" else "",
        }
        for weight, kind, state, score in TRIALS
    ]  # fmt: skip
    return _written(folder / "trials.json", {"base": {"model": name, "kd": name}, "trials": trials})


def write_grid_results(folder: Path, name: str = "RCEKD") -> Path:
    for run, value in ((name, 0.12), ("plain", 0.11)):
        for seed in (0, 1):
            sides = {"teacher": metrics(0.14), "student": metrics(0.1 + seed / 100)}
            distilled = {**made_result()["distilled"], **metrics(value + seed / 50)}
            record = {**made_result(name), **sides, "distilled": distilled, "grid": "g", "run": run, "seed": seed}
            _written(folder / f"{'own' if run == name else run}-seed{seed}.json", record)
    return folder


def write_comparison(folder: Path, name: str = "RCEKD") -> Path:
    write_grid_results(folder / "results", name)
    cell = name.replace('"', '""')
    lines = [f'"{cell}",distilled,ndcg@10,2,0.13,0.014142,0.26,0.93,,,0.5']
    (folder / "table.csv").write_text("\n".join([COLUMNS, *lines, ""]))
    _written(folder / "results" / "own-seed0-other.json", {**made_result(name), "run": name, "seed": 0})
    shown = [f"{row}-seed{seed}.json" for row in ("own", "plain") for seed in (0, 1)]
    _written(folder / "shown.json", {"results": shown})
    (folder / "table.txt").write_text(f"title\n\ntable\n\n± is the sample\nstandard deviation, {name}.\n")
    return folder


MADE = {"run": write_run, "search": write_search, "grid": write_grid_results, "comparison": write_comparison}
"""A maker for each kind of folder."""


def _written(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path.parent
