"""RecBole's models trained as the KD literature trains them: a summed loss, normally drawn embeddings.

The published weight decays belong to losses that are summed over the rows of a batch, and Adam's coupled decay is not
indifferent to the factor between a sum and a mean. This file is the only place where one is turned into the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def initialise(model: nn.Module, std: float | None) -> None:
    """Draw all embeddings of a RecBole model from N(0, std^2), in place; left as they are where std is None or the model does so itself."""
    if std is None or hasattr(model, "init_std"):
        return
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)


def reduction_of(model: nn.Module, asked: str | None) -> str:
    """The reduction over a batch's rows that a model is trained with: what was asked, else its own; RecBole's losses are means."""
    return asked or str(getattr(model, "loss_reduction", "mean"))


def sums_itself(model: nn.Module) -> bool:
    """Does the model follow ``loss_reduction`` by itself?"""
    return hasattr(model, "loss_reduction")


def adds_up(model: nn.Module) -> bool:
    """Is the model's own loss a sum over a batch's rows, not a mean?"""
    return getattr(model, "loss_reduction", "mean") == "sum"


def summed(factor: float, rows: int) -> float:
    """The factor of a mean over the rows of a batch that makes it their sum.

    Args:
        rows: positives of the batch; further negatives of a positive are averaged, as published.
    """
    return factor * rows


def with_decay_for_mean(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Property values, with a decay that belongs to a sum turned into that of the mean which the user asks for: w / B.

    Adam divides the gradient by its own scale: with the sum over B rows the decay's share of it is B times smaller. A
        decay that the
    user gives stands as it is.
    """
    turned = dict(defaults)
    asks_mean = given.get("loss_reduction") == "mean" and defaults.get("loss_reduction") == "sum"
    if asks_mean and "weight_decay" in defaults and "weight_decay" not in given:
        turned["weight_decay"] = defaults["weight_decay"] / given.get(
            "train_batch_size", defaults.get("train_batch_size", 2048)
        )
    return turned


def reduction_note(model: nn.Module, config: Any) -> str:
    """One sentence for the log on the reduction that a model is trained with and the weight decay that belongs to it."""
    reduction, decay = reduction_of(model, config["loss_reduction"]), config["weight_decay"] or 0.0
    if reduction == "mean":
        return f"{config['model']}: mean over the rows of a batch, weight_decay {decay:g} as it stands"
    how = "its own sum" if sums_itself(model) else "RecBole's mean times the rows of the batch, that is their sum"
    return f"{config['model']}: {how} (loss_reduction=sum), to which weight_decay {decay:g} belongs"
