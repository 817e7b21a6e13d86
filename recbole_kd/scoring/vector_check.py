"""Check that a model's vectors give its scores, before anything is trained with them."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_kd.errors import ConfigError
from recbole_kd.scoring.own_scores import OwnScores
from recbole_kd.scoring.scorer import Scorer

SAMPLE = 8
"""Queries whose scores of the whole catalogue are compared."""

TOLERANCE = 1e-5
"""Largest difference, relative to the largest score."""


def check_vectors(scorer: Scorer) -> None:
    """Compare a model's dot products with its own ``full_sort_predict`` on some queries.

    A model whose score is not known to be a dot product is not checked.

    Raises:
        ConfigError: they differ, so that every ranking and every loss would be of other scores.
    """
    if not scorer.has_vectors:
        return
    queries = _sample(scorer)
    with scorer.frozen():
        query_vectors, item_vectors = scorer.tables_for(queries)
        found = query_vectors[queries] @ item_vectors.T
    with scorer.frozen():
        own = OwnScores(scorer.model, scorer.rows).full(queries, keep_tables=True)
    if found.shape != own.shape:
        raise ConfigError(
            f"The vectors of {type(scorer.model).__name__} give scores of {found.shape[1]} items and "
            f"full_sort_predict those of {own.shape[1]}: mend the function given to register_model(vectors=...)"
        )
    own, found = own[:, 1:], found[:, 1:]
    finite = own.isfinite()
    scale = max(1.0, float(own.masked_fill(~finite, 0.0).abs().max()))
    # What is not finite in both is refused where scores are ranked; in one of them it is a difference.
    same = torch.equal(finite, found.isfinite())
    difference = float((found - own).masked_fill(~finite, 0.0).abs().max()) if same else float("inf")
    if difference > TOLERANCE * scale:
        raise ConfigError(
            f"The scores of {type(scorer.model).__name__} are not the dot products of its vectors: on a sample they "
            f"differ by up to {difference:.2g}. Mend the function given to register_model(vectors=...), or leave it out"
        )


def _sample(scorer: Scorer) -> Tensor:
    """Return some queries, evenly spaced, without those of an empty history: int64 ``[n]``."""
    queries = torch.arange(1, scorer.n_queries)
    if scorer.rows is not None:
        queries = queries[(scorer.rows.ends > scorer.rows.begins)[1:].cpu()]
    return queries[:: max(1, len(queries) // SAMPLE)][:SAMPLE].to(scorer.device)
