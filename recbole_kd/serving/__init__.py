"""A finished student at work: its folder, recommendations, users without training."""
