"""The KD methods, one per file; :mod:`recbole_kd.distiller.methods` is the table of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recbole_kd.distiller.registry import DISTILLERS, distiller_class, distiller_options

__all__ = ["DISTILLERS", "distiller_class", "distiller_options"]


def __getattr__(name: str) -> Any:
    """Return a name of the registry, which is imported on use: a list of the methods needs no PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("recbole_kd.distiller.registry"), name)
