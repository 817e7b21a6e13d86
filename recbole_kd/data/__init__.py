"""Data sets: splits, loaders, fingerprints, item features and preparation of raw files."""
