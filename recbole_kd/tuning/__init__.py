"""Hyper-parameter search on the validation metric, with RecBole's HyperTuning or Ray Tune."""
