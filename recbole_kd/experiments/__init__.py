"""Grids of runs (pairs x methods x seeds), resumable, and tables of their results."""
