"""Figures that explain a distillation; nothing here takes part in training."""
