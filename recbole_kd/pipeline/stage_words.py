"""The titles and results of a run's stages, in words for the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_kd.config.property_layers import public_name
from recbole_kd.data.split_and_loaders import Splits
from recbole_kd.data.split_words import split_in_words
from recbole_kd.pipeline.verdict import short
from recbole_kd.version import __version__


def named(config: Any) -> str:
    """Return a model's name with its width, such as ``MF (20)``."""
    width = config["embedding_size"] or config["hidden_size"]
    return f"{public_name(config['model'])}{f' ({width})' if isinstance(width, int) else ''}"


def outcome(figures: Mapping[str, Any], metric: str, where: str, cached: bool) -> str:
    """Return the result of a stage in words: best epoch, metrics and folder.

    Args:
        figures: metrics of the stage, as in result.json.
        metric: the stopping metric.
        where: the folder.
        cached: whether the stage was taken from the cache, without training.
    """
    parts = []
    best = figures.get("best_epoch")
    if best is not None and not cached:
        parts.append(f"best epoch {best + 1} of {figures['epochs']}")
    scores = [
        f"{part} {short(figures[part][metric.lower()])}"
        for part in ("valid", "test")
        if metric.lower() in (figures.get(part) or {})
    ]
    if scores:
        parts.append(f"{metric} {', '.join(scores)}")
    parts.append(f"{'taken from' if cached else 'kept in'} {where}")
    return f"{'' if cached else 'done: '}{', '.join(parts)}"


def headline(config: Any, splits: Splits, threads: int) -> str:
    """Return the first line of a run: version, data, split, device."""
    dataset = splits.dataset
    counts = " / ".join(f"{len(part.inter_feat):,}" for part in splits.parts)
    device = config["device"]
    place = f"CPU, {threads} thread{'s' if threads != 1 else ''}" if device.type == "cpu" else str(device)
    return (
        f"recbole_kd {__version__} | {dataset.dataset_name}: {splits.n_users:,} users, {splits.n_items:,} items, "
        f"{counts} interactions | split {split_in_words(config)} | {place}"
    )
