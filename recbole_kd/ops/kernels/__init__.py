"""Compiled CPU kernels behind the operations."""
