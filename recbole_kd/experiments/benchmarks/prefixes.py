"""CPU seconds to encode history prefixes, in one pass per history and separately."""

from __future__ import annotations

from statistics import median
from time import process_time

import torch

from recbole_kd.data.histories.sequence_dataset import universe_of
from recbole_kd.experiments.benchmarks.sequences import LEAVE_ONE_OUT, make_trainer
from recbole_kd.scoring.scorer import HISTORIES_PER_CALL, Scorer

MODELS = {
    "HSTU": {"n_layers": 4, "n_heads": 2, "embedding_size": 64, "attention_size": 32, "linear_size": 32},
    "SASRec": {"n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 256},
    "GRU4Rec": {"embedding_size": 64},
}
DATA = {"dataset": "ml-100k", "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "eval_args": LEAVE_ONE_OUT}


def encode_both(model: str, length: int, n_users: int, repeats: int) -> dict[str, float]:
    """Measure both ways in turn.

    Returns:
        median seconds together and apart, the largest difference of a vector, and the passes and histories of all
        users.
    """
    trainer, loaders = make_trainer(model, False, DATA, {**MODELS[model], "MAX_ITEM_LIST_LENGTH": length})
    rows = universe_of(loaders.train)
    assert rows is not None
    scorer = Scorer(trainer.model, rows)
    users = torch.randperm(rows.n_whole - 1, generator=torch.Generator().manual_seed(0))[:n_users] + 1
    queries = torch.isin(rows.users, users).nonzero().squeeze(1)
    together, apart = [], []
    assert scorer._encoder is not None
    with scorer.frozen():
        for _ in range(repeats):
            started = process_time()
            one = scorer._encoded(queries)
            between = process_time()
            other = torch.cat(
                [
                    scorer._encoder.queries(trainer.model, rows.interaction(some))
                    for some in queries.split(HISTORIES_PER_CALL)
                ]
            )
            together.append(between - started)
            apart.append(process_time() - between)
    passes = len(rows.passes(torch.arange(len(rows))).encoded)
    figures = {"together": median(together), "apart": median(apart), "difference": float((one - other).abs().max())}
    return {**figures, "passes": passes, "histories": len(rows)}


def report_prefixes(length: int, n_users: int, repeats: int) -> None:
    """Print the measurements of each model (:func:`encode_both`)."""
    for model in MODELS:
        print(model, encode_both(model, length, n_users, repeats))
