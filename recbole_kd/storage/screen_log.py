"""Lines that a run shows on its screen; all other messages go to its log alone."""

from __future__ import annotations

from logging import getLogger

SCREEN = "recbole_kd.screen"
"""Logger whose lines are shown as they are."""


def show(text: str) -> None:
    """Show a line on the screen of a run, and write it into its log."""
    getLogger(SCREEN).info(text)
