"""Data sets: splits, loaders, fingerprints, item features, and raw files into atomic files."""
