"""Tensor operations without RecBole: top-k, sampling, membership, ragged lists, threads."""
