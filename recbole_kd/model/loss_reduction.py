"""Summed losses and normal initialisation for RecBole's models, as in the KD literature.

The published weight decays belong to losses that are summed over the rows of a batch. Adam's coupled decay depends on
the factor between a sum and a mean. Only this module converts one into the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def initialise(model: nn.Module, std: float | None) -> None:
    """Draw all embeddings of a RecBole model from N(0, std^2), in place.

    Nothing changes if std is None or the model does this itself.
    """
    if std is None or hasattr(model, "init_std"):
        return
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)


def reduction_of(model: nn.Module, asked: str | None) -> str:
    """Return the reduction over a batch's rows: the one asked for, else the model's own.

    RecBole's losses are means.
    """
    return asked or str(getattr(model, "loss_reduction", "mean"))


def sums_itself(model: nn.Module) -> bool:
    """Return whether the model itself implements ``loss_reduction``."""
    return hasattr(model, "loss_reduction")


def adds_up(model: nn.Module) -> bool:
    """Return whether the model's own loss is a sum over a batch's rows, not a mean."""
    return getattr(model, "loss_reduction", "mean") == "sum"


def summed(factor: float, rows: int) -> float:
    """Return the factor that turns a mean over the rows of a batch into their sum.

    Args:
        factor: a factor to multiply in.
        rows: number of positives of the batch. Several negatives of a positive are averaged, as published.
    """
    return factor * rows


def with_decay_for_mean(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return property values with a weight decay for a sum converted to one for a mean, w / B.

    This applies if the user asks for a mean. Adam divides the gradient by its scale, so with the sum over B rows the
    relative effect of the decay is B times smaller. A decay that the user gives is not changed.
    """
    turned = dict(defaults)
    asks_mean = given.get("loss_reduction") == "mean" and defaults.get("loss_reduction") == "sum"
    if asks_mean and "weight_decay" in defaults and "weight_decay" not in given:
        turned["weight_decay"] = defaults["weight_decay"] / given.get(
            "train_batch_size", defaults.get("train_batch_size", 2048)
        )
    return turned


def reduction_note(model: nn.Module, config: Any) -> str:
    """Return a log line on the reduction of a model's loss and its weight decay."""
    reduction, decay = reduction_of(model, config["loss_reduction"]), config["weight_decay"] or 0.0
    loss = getattr(model, "loss_name", None)  # HSTU's, which may follow from the number of items
    name = config["model"] if loss is None else f"{config['model']} (loss={loss})"
    if reduction == "mean":
        return f"{name}: mean over the rows of a batch, weight_decay {decay:g} unchanged"
    how = "its own sum" if sums_itself(model) else "RecBole's mean times the rows of the batch, which is their sum"
    return f"{name}: {how} (loss_reduction=sum), with weight_decay {decay:g}"
