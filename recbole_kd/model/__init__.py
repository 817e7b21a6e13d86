"""Backbones that RecBole does not have, independent of distillation."""
