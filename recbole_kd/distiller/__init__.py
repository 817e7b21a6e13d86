"""The KD methods: one file each, one line each in the table below."""

from __future__ import annotations

from recbole_kd.distiller.registry import DISTILLERS, distiller_class, distiller_options

__all__ = ["DISTILLERS", "distiller_class", "distiller_options"]
