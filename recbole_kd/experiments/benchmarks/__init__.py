"""Benchmarks of speed and memory: synthetic data, cases, phases, floors, growth."""
