"""Hyper-parameter search: RecBole's HyperTuning and Ray Tune over one search space, on the validation metric."""
