"""One small trained run per model, shared by the tests of finished students."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from recbole_kd.pipeline.quick_start import run_recbole_kd
from tests.support.helpers import write_tiny

KEYS: dict[str, Any] = {
    "dataset": "tiny", "teacher": "LightGCN", "epochs": 3, "teacher_config": {"epochs": 2, "embedding_size": 8},
    "train_batch_size": 128,
    "show_progress": False, "kd_compare": False, "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "use_gpu": False,
    "kd_k": 5, "topk": [3, 10], "metrics": ["Recall", "NDCG", "Hit"], "valid_metric": "NDCG@10",
}  # fmt: skip
SEQUENTIAL = {"kd": "CE", "MAX_ITEM_LIST_LENGTH": 10, "n_layers": 1, "hidden_size": 8, "inner_size": 8}
RANKED = {"kd": "RCEKD", "kd_n_samples": 5, "eval_args": {"order": "TO"}}
MODELS: dict[str, dict[str, Any]] = {
    "MF": {**RANKED, "embedding_size": 4},
    "LightGCN": {**RANKED, "embedding_size": 4},
    "NeuMF": {
        "kd": "CE",
        "eval_args": {"order": "TO"},
        "mf_embedding_size": 4,
        "mlp_embedding_size": 4,
        "mlp_hidden_size": [8],
    },
    "MultiVAE": {"kd": "CE", "eval_args": {"order": "TO"}, "mlp_hidden_size": [8], "latent_dimension": 4},
    "SASRec": {**SEQUENTIAL, "n_heads": 1},
    "GRU4Rec": {**SEQUENTIAL, "embedding_size": 8, "num_layers": 1},
    "HSTU": {**SEQUENTIAL, "embedding_size": 8, "n_heads": 1, "attention_size": 8, "linear_size": 8},
}


@cache
def place() -> Path:
    """Folder of the data, the cache and the runs; the data are made once."""
    folder = Path(mkdtemp(prefix="students-"))
    write_tiny(folder / "data", "tiny")
    return folder


@cache
def trained(model: str, protocol: str = "recbole") -> dict[str, Any]:
    """The result of a run of the model on the tiny data set; trained at the first call."""
    folder = place()
    places = {
        "data_path": str(folder / "data"),
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "saved"),
    }
    return run_recbole_kd(model, config_dict={**KEYS, **MODELS[model], **places, "eval_protocol": protocol})
