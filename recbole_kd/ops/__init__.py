"""Tensor operations without RecBole: top-k, sampling, membership, order statistics, ragged lists, threads."""
