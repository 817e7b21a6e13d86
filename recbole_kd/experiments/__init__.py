"""Grids of runs: pairs x methods x seeds, resumable, and the tables made from their results."""
