"""The KD methods, one per file, and the registry that names them."""

from __future__ import annotations

from recbole_kd.distiller.registry import DISTILLERS, distiller_class, distiller_options

__all__ = ["DISTILLERS", "distiller_class", "distiller_options"]
