"""Backbones that RecBole does not have. They know nothing of distillation."""
