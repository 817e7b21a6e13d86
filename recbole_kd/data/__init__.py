"""Data sets: preparing them, and what a distillation reads beside the interactions."""
