"""Ranking metrics over the whole catalogue, and diagnostics of a ranking."""
