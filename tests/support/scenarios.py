"""Runs that have, between them, every stage and every method with a state of its own."""

from __future__ import annotations

PLAIN = {"kd_n_samples": None, "kd_candidates": None}
"""Without the keys of RCE-KD."""

SEQUENTIAL = {
    "embedding_size": None, "teacher__embedding_size": None, "hidden_size": "8", "inner_size": "8", "n_heads": "1",
    "teacher__hidden_size": "16", "teacher__inner_size": "16", "teacher__n_heads": "1", "eval_args__order": None,
}  # fmt: skip

SCENARIOS: dict[str, dict[str, str | None]] = {
    "RCEKD": {},
    "RCEKD, sets of three epochs": {"kd_refresh": "3", "epochs": "7"},
    "RRD": {"kd": "RRD", **PLAIN, "kd_n_samples": "5", "kd_candidates": "20", "epochs": "5"},
    "HetComp of two teachers": {
        "kd": "HetComp", **PLAIN, "teacher": "MF,LightGCN", "teacher__epochs": "20", "teacher__stopping_step": "50",
        "kd_p": "2", "kd_n_checkpoints": "2",
    },
    "TARec with its assistant": {"kd": "TARec", **PLAIN, "kd_n_negatives": "5"},
    "DE, experts": {"kd": "DE", **PLAIN, "kd_k": None, "epochs": "5"},
    "DERRD, experts and lists": {"kd": "DERRD", **PLAIN, "kd_n_samples": "5", "kd_candidates": "20"},
    "HTD, experts in groups": {"kd": "HTD", **PLAIN, "kd_k": None},
    "FreqD, graph filter": {"kd": "FreqD", **PLAIN, "kd_k": None},
    "UnKD, popularity groups": {"kd": "UnKD", **PLAIN, "kd_k": None},
    "dense store": {"teacher_store": "dense", "teacher_dtype": "fp16"},
    "truncated store": {"teacher_svd": "4"},
    "BM3 with features of words": {"teacher": "BM3", "dataset": "worded"},
    "EASE, a teacher in closed form": {"teacher": "EASE", "teacher__epochs": None, "teacher__embedding_size": None},
    "SASRec, sequential": {"model": "SASRec", "teacher": "SASRec", **SEQUENTIAL},
    "HSTU, whole sequences": {
        "model": "HSTU", "teacher": "HSTU", "setting": "sequential", "embedding_size": None,
        "teacher__embedding_size": None,
        "eval_args__order": None,
    },
}  # fmt: skip
"""Name -> what differs from the main job (:func:`tests.support.runs.words`; a key ``a.b`` is written ``a__b``)."""
