"""A user's own RecBole script, in a process of its own.

What it computes, writes, warns of and finds in the process, as one JSON line.

Words: ``before`` or ``after`` (when recbole_kd is imported, beside RecBole), or ``without``; the folder of the data.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import dok_matrix


def let_recbole_run() -> None:
    """Give RecBole the names and defaults of the libraries that it was made for, if they are newer.

    Nothing of recbole_kd is used.
    """
    for old, new in {"float_": "float64", "complex_": "complex128", "unicode_": "str_"}.items():
        if not hasattr(np, old):
            setattr(np, old, getattr(np, new))
    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda matrix, cells: matrix._dict.update(cells)
    plain = torch.load
    torch.load = lambda *args, **kwargs: plain(*args, **{"weights_only": False, **kwargs})


def state() -> dict[str, object]:
    """What a plain RecBole user could see of the process."""
    return {
        "filters": [str(filter) for filter in warnings.filters],
        "threads": torch.get_num_threads(), "argv": sys.argv, "level": logging.getLogger().level,
        "handlers": [type(handler).__name__ for handler in logging.getLogger().handlers],
        "float": str(torch.get_default_dtype()), "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": sorted(key for key in os.environ if not key.startswith(("_", "KMP", "RAY"))),
    }  # fmt: skip


when, data = sys.argv[1:3]
let_recbole_run()
if when == "before":
    import recbole_kd
from recbole.config import Config  # noqa: E402
from recbole.quick_start import run_recbole  # noqa: E402

if when == "after":
    import recbole_kd  # noqa: F401

sys.argv = sys.argv[:1]
at_start, seen = state(), []
warnings.showwarning = lambda message, category, filename, line, *_: seen.append(
    [category.__name__, str(message)[:80], Path(filename).name]
)
keys = {
    "data_path": data, "epochs": 2, "embedding_size": 4, "train_batch_size": 64, "topk": [20],
    "valid_metric": "NDCG@20", "metrics": ["NDCG", "Recall"], "metric_decimal_place": 10,
    "show_progress": False, "use_gpu": False, "gpu_id": "",
    "load_col": {"inter": ["user_id", "item_id"]},
}  # fmt: skip
sequences = {
    "hidden_size": 8, "inner_size": 8, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 5, "train_neg_sample_args": None,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}  # fmt: skip
metrics, configs = {}, {}
for model in ("BPR", "LightGCN", "SASRec"):
    own = {**keys, **(sequences if model == "SASRec" else {})}
    configs[model] = {
        key: repr(value) for key, value in Config(model, "tiny", config_dict=own).final_config_dict.items()
    }
    result = run_recbole(model=model, dataset="tiny", config_dict=own, saved=True)
    for part in ("best_valid_result", "test_result"):
        metrics[f"{model}, {part}"] = {name: float(value) for name, value in result[part].items()}
files = sorted({path.suffix for path in Path().rglob("*") if path.is_file()})
found = {
    "metrics": metrics, "configs": configs, "order": {model: list(config) for model, config in configs.items()},
    "files": files, "folders": sorted(str(path) for path in Path().iterdir()),
    "warnings": sorted(map(list, {tuple(w) for w in seen})),
    "at_start": at_start, "at_end": state(), "class": Config.__module__,
}  # fmt: skip
print("RESULT " + json.dumps(found))
