"""Scores of any RecBole model at chosen items, and the registry of dot-product models."""
